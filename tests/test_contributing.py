"""CONTRIBUTING.md's recipes, followed in a copy of the project: what they say works as it stands there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RECIPES = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S))
BLOCK = re.compile(r"^```(?:python|js)\n(?:#|//) ([\w/]+\.\w+)(?:, below: (.*?))?\n(.*?)^```", re.M | re.S)


def code_cell(source: str) -> dict:
    return {"cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}


def follow(project: Path, recipe: str) -> None:
    "Write the files of a recipe, and put its lines below those that it names."
    for name, line, text in BLOCK.findall(recipe):
        path = project / name
        if line:
            notebook = json.loads(path.read_text())
            cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
            found = [cell for cell in cells if re.search(rf"^\s*{re.escape(line)}", "".join(cell["source"]), re.M)]
            assert len(found) == 1, f"{name}: {len(found)} cells have a line that begins with {line}"
            lines = "".join(found[0]["source"]).splitlines(keepends=True)
            place = next(i for i, each in enumerate(lines) if each.strip().startswith(line))
            found[0]["source"] = "".join([*lines[: place + 1], text, *lines[place + 1 :]])
            path.write_text(json.dumps(notebook))
        elif path.suffix == ".ipynb":
            module = ".".join(Path(name).with_suffix("").parts[1:])
            cells = [code_cell(f"#| default_exp {module}"), code_cell(f"#| export\n{text}")]
            path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
        else:
            path.write_text(text)


@pytest.fixture
def project(tmp_path) -> Path:
    kept = ["nbs", "js", "mil_workbench", "settings.ini", "setup.py", "pyproject.toml", "README.md"]
    for name in kept:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    return tmp_path


def run(project: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(project), "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("name", ["A model", "A source of data", "A parameter"])
def test_a_recipe_trains(project, name):
    follow(project, RECIPES[name])
    run(project, str(Path(sys.executable).parent / "nbdev_export"))
    given = dict(re.findall(r"-p (\w+) (\S+)", RECIPES[name]))
    words = [word for option, value in given.items() for word in (f"--{option.replace('_', '-')}", value)]
    command = [sys.executable, "-m", "mil_workbench.jobs.cli", "run", "train", *words]
    run(project, *command, "--epochs", "2", "--device", "cpu", "--run-name", "recipe")
    folder = project / "papermill_runs" / "first" / "recipe"
    assert json.loads((folder / "metrics.json").read_text())["test"]["auroc"] is not None
    parameters = json.loads((folder / "params.json").read_text())
    assert all(str(parameters[option]) == value for option, value in given.items())


def test_a_viewer_shows_its_cases(project):
    recipe = RECIPES["A viewer"]
    follow(project, recipe)
    shutil.copy(project / "js" / "dots.js", project / "mil_workbench" / "viewers" / "static")  # it imports nothing
    run(project, str(Path(sys.executable).parent / "nbdev_export"))
    [example] = re.findall(r"`(DotsViewer\(.*?\))`", recipe)
    script = f"from mil_workbench.viewers.dots import *\nviewer = {example}\nviewer.case = 'b'\nprint(viewer.weights)"
    assert run(project, sys.executable, "-c", script + "\nviewer.save('dots.png')").strip() == "[0.5, 0.5]"
    assert (project / "dots.png").stat().st_size > 1000
