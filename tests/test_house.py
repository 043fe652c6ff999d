"""What holds the house together: notebooks and package agree, imports run one way, no ordinary test judges a clock."""

import ast
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell):
    return "".join(cell["source"])


def is_export(cell):
    return cell["cell_type"] == "code" and re.match(r"#\s*\|\s*exports?\b", source(cell))


def test_export_clean_and_readme_leave_the_tree_unchanged(tmp_path):
    kept = ["nbs", "mil_workbench", "settings.ini", "setup.py", "pyproject.toml", "README.md", "Makefile"]
    for name in kept:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    before = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "bin").symlink_to(BIN)
    (tmp_path / "venv" / ".installed").touch()
    done = subprocess.run(["make", "export", "VENV=venv"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    changed = [
        str(path.relative_to(tmp_path))
        for path, content in before.items()
        if not path.exists() or path.read_bytes() != content
    ]
    changed += [
        str(path.relative_to(tmp_path)) for path in (tmp_path / "mil_workbench").rglob("*.py") if path not in before
    ]
    assert not changed, f"run `make export` and commit: {changed}"


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if "runs" in p.parts], ids=lambda p: p.stem)
def test_run_notebook_has_one_parameters_cell_and_exports_nothing(path):
    tagged = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert not any(is_export(cell) for cell in cells(path))
    from mil_workbench.record.parameters import read_parameters

    assert all(parameter.help for parameter in read_parameters(path).values()), "every parameter says what it is"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_chapter_that_exports_tests_itself_and_holds_no_output(path):
    assert not any(cell.get("outputs") for cell in cells(path)), "run nbdev_clean and clear the outputs"
    exported = [cell for cell in cells(path) if is_export(cell)]
    examples = [source(cell) for cell in cells(path) if cell["cell_type"] == "code" and not is_export(cell)]
    if exported:
        assert any(re.search(r"\b(assert|test_\w+\()", text) for text in examples), "exports code, but no cell tests it"
        assert max(source(cell).count("\n") for cell in exported) < 60, "an exported cell is longer than 60 lines"


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm, which builds the viewers' modules, is not there")
def test_shipped_javascript_is_what_its_modules_give(tmp_path):
    for name in ("Makefile", "package.json", "package-lock.json", ".npmrc"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "js", tmp_path / "js")
    done = subprocess.run(["make", "viewers"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    static = "mil_workbench/viewers/static"
    built, shipped = ({path.name: path.read_bytes() for path in (root / static).iterdir()} for root in (tmp_path, ROOT))
    assert built == shipped, "run `make viewers` and commit"


def test_imports_run_one_way():
    done = subprocess.run([BIN / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.xdist_group("house")
def test_groups_of_tests_share_a_process(request):
    """With pytest 9.2, xdist 3.8 drops the groups without a word.

    Each process would make its own JupyterLab, Slurm and small runs then.
    """
    if request.config.getoption("loadgroup", False):  # in one of xdist's processes
        assert request.node.nodeid.endswith("@house")


def test_import_is_light():
    modules = "mil_workbench, mil_workbench.record.parameters, mil_workbench.record.run_folder"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


STOPWATCH = re.compile(
    r"\b(perf_counter|process_time|timeit|time\.time)(_ns)?\(|\bmonotonic\(\) -"
)  # a wait asks time.monotonic whether its end has come


def test_only_slow_tests_that_are_alone_hold_a_stopwatch():
    "Other work on the machine fails what judges a time. An example that needs a clock brings its own."
    examples = [
        (path, cell)
        for path in NOTEBOOKS
        if "runs" not in path.parts
        for cell in cells(path)
        if cell["cell_type"] == "code" and not is_export(cell)
    ]
    found = [f"{path.name}: {source(cell)}" for path, cell in examples if STOPWATCH.search(source(cell))]
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        of_all = {
            ast.unparse(mark)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
            for mark in getattr(node.value, "elts", [node.value])
        }
        for test in (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")):
            marks = of_all | {ast.unparse(mark) for mark in test.decorator_list}
            if (STOPWATCH.search(ast.get_source_segment(text, test)) or "pytest.mark.alone" in marks) and not {
                "pytest.mark.slow",
                "pytest.mark.alone",
            } <= marks:
                found.append(f"{path.name}: {test.name}")
    assert not found, f"mark them slow and alone, or judge something else: {found}"


@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_import_is_fast():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import mil_workbench"], check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3


def test_nothing_forbidden_is_tracked():
    tracked = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    names = [line.split("\t")[1] for line in tracked]
    runs = [
        name
        for name in names
        if name.startswith("papermill_runs/")
        and not name.startswith(("papermill_runs/pages/", "papermill_runs/README"))
    ]
    endings = (".safetensors", ".pt", ".pth", ".h5", ".npy", ".nii", ".nii.gz")
    fixtures = [name for name in names if name.startswith("tests/runs_of_0_1/")]  # drawn numbers, nobody's data
    weights = [name for name in names if name.endswith(endings) and name not in fixtures]
    assert sum((ROOT / name).stat().st_size for name in fixtures) < 2**20
    assert not runs and not weights


def test_the_readme_is_one_page_and_every_link_of_readme_and_guides_leads_somewhere():
    assert len((ROOT / "README.md").read_text().split()) <= 900
    pages = [ROOT / "nbs/index.ipynb", *sorted((ROOT / "nbs/guides").glob("*.ipynb"))]
    assert len(pages) > 1
    for page in pages:
        text = "\n".join(source(cell) for cell in cells(page))
        lost = [
            link
            for link in re.findall(r"\]\(([^)#]+)\)", text)
            if not link.startswith("http") and not (page.parent / link).exists()
        ]
        assert not lost, f"{page.name}: {lost}"
    lost = [
        link
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
        if not link.startswith("http") and not (ROOT / link).exists()
    ]
    assert not lost, lost


def test_what_the_makefile_imports_is_there():
    imports = re.findall(r"from (mil_workbench[\w.]*) import (\w+)", (ROOT / "Makefile").read_text())
    assert len(imports) > 1
    for module, name in imports:
        subprocess.run([sys.executable, "-c", f"from {module} import {name}"], check=True)
