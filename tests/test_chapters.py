"""Every notebook that a bare `nbdev_test` runs, one case each, in a process of its own."""

import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.test import nbdev_test
from nbdev.test import test_nb as run_and_judge

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = [path for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
CHAPTERS = [str(path.relative_to(ROOT / "nbs")) for path in NOTEBOOKS if not (path.parent / ".notest").exists()]
SKIPPED = get_config(path=ROOT).tst_flags.split()  # cells that take minutes
WITH_SLOW_CELLS = [name for name in CHAPTERS if '"#| slow' in (ROOT / "nbs" / name).read_text()]

# Importing these takes longer than most chapters do.
# A process that has imported them, and nothing of ours, is forked for each chapter.
HEAVY = [
    "accelerate",
    "h5py",
    "matplotlib.pyplot",
    "nbdev.test",
    "pandas",
    "pytest",
    "scipy.stats",
    "sklearn.metrics",
    "torchvision",
]
multiprocessing.set_forkserver_preload(HEAVY)


def run_chapter(chapter: str, folder: str, skipped: list[str]) -> None:
    """Do what nbdev_test does with one notebook.

    What it prints and its temporary files go to `folder`, since a forked process removes nothing.
    """
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    with open(f"{folder}/told", "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT / "nbs")
    has_passed, _ = run_and_judge(ROOT / "nbs" / chapter, skip_flags=skipped, basepath=ROOT)
    raise SystemExit(0 if has_passed else 1)


def require_passing(chapter: str, skipped: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("forkserver").Process(target=run_chapter, args=(chapter, folder, skipped))
        process.start()
        process.join()
        assert process.exitcode == 0, Path(folder, "told").read_text()[-6000:]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter(chapter, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    require_passing(chapter, SKIPPED)


@pytest.mark.slow
@pytest.mark.parametrize("chapter", WITH_SLOW_CELLS)
def test_chapter_with_its_slow_cells(chapter, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    require_passing(chapter, skipped=[])


def test_nbdev_test_runs_the_same(monkeypatch):
    "As typed at the project's root: the same notebooks and cells, except those that have tests of their own."
    seen = {}

    def stand_in(function, files, skip_flags, force_flags, basepath, **_):
        seen.update(function=function, files=files, skipped=(skip_flags, force_flags), basepath=basepath)
        return [(True, 0.0)] * len(files)

    monkeypatch.setattr("nbdev.test.parallel", stand_in)
    monkeypatch.chdir(ROOT)
    nbdev_test()
    assert sorted(str(path.relative_to(ROOT / "nbs")) for path in seen["files"]) == CHAPTERS
    assert (seen["function"], seen["skipped"], seen["basepath"]) == (run_and_judge, (SKIPPED, []), ROOT)
    assert {path.parent.name for path in NOTEBOOKS} - {path.parent.name for path in seen["files"]} == {
        "runs",
        "explore",
        "guides",
    }  # guides are prose alone
