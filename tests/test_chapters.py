"""Every chapter that exports runs from top to bottom, one case each, in a process of its own."""
import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest
from nbdev.test import test_nb as run_and_judge

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(
    str(path.relative_to(ROOT / "nbs"))
    for path in (ROOT / "nbs").rglob("*.ipynb")
    if not {"runs", "explore", ".ipynb_checkpoints"} & set(path.parts) and path.name != "index.ipynb"
)
ALONE = {"data/stores.ipynb"}  # judges times closely

# Importing these takes longer than most chapters do. A process that has imported them, and nothing of ours, is forked for each chapter.
HEAVY = ["accelerate", "h5py", "matplotlib.pyplot", "nbdev.test", "pandas", "pytest", "scipy.stats", "sklearn.metrics", "torchvision"]
multiprocessing.set_forkserver_preload(HEAVY)


def run_chapter(chapter: str, folder: str) -> None:
    "What nbdev_test does with one notebook. What it prints and its temporary files go to `folder`, since a forked process tidies nothing up."
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    with open(f"{folder}/told", "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT / "nbs")
    has_passed, _ = run_and_judge(ROOT / "nbs" / chapter, skip_flags=["notest"], basepath=ROOT)
    raise SystemExit(0 if has_passed else 1)


@pytest.mark.parametrize("chapter", [pytest.param(chapter, marks=pytest.mark.alone if chapter in ALONE else ()) for chapter in CHAPTERS])
def test_chapter(chapter, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("forkserver").Process(target=run_chapter, args=(chapter, folder))
        process.start()
        process.join()
        assert process.exitcode == 0, Path(folder, "told").read_text()[-6000:]
