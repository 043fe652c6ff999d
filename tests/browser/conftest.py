"""A project folder with a JupyterLab of its own, a page to meet it on, and a table of what was measured there."""

import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from . import lab as labs

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "build" / "viewers.csv"
BEGUN = time.time()


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items):
    "One process has the browser, the server and the small runs, which are made once."
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("browser"))
            if labs.CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="there is no Chromium (as root: apt-get install chromium)"))


def pytest_terminal_summary(terminalreporter):
    if TABLE.exists() and TABLE.stat().st_mtime >= BEGUN and not hasattr(terminalreporter.config, "workerinput"):
        terminalreporter.section(f"measured in the page, {TABLE.relative_to(ROOT)}")
        terminalreporter.write(TABLE.read_text())


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "JupyterLab in a folder that counts as the project; in it, `clone` is a clone of ours."
    folder = tmp_path_factory.mktemp("project")
    (folder / "settings.ini").touch()
    clone = folder / "clone"
    for part in ("explore", "runs"):
        shutil.copytree(ROOT / "nbs" / part, clone / "nbs" / part, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("settings.ini", ".gitignore"):
        shutil.copy(ROOT / name, clone / name)
    for words in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", "as cloned"],
    ):
        subprocess.run(["git", "-C", clone, *words], check=True)
    subprocess.run(
        [sys.executable, "-c", "from mil_workbench.working_copies import refresh_copies; refresh_copies()"],
        cwd=clone,
        check=True,
    )
    server = labs.Lab(folder, tmp_path_factory.mktemp("lab"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def chromium():
    with labs.browser() as browser:
        yield browser


@pytest.fixture
def page(chromium, lab):
    context = chromium.new_context()
    yield context.new_page()
    context.close()
    lab.end_kernels()


@pytest.fixture(scope="session")
def table():
    "Keeps a row of the table: what was measured, and its figures."
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("what,figure,value\n")

    def keep(what: str, **figures: float) -> None:
        with open(TABLE, "a", newline="") as file:
            csv.writer(file).writerows((what, name, round(value, 2)) for name, value in figures.items())

    return keep
