"""`make lab` opens working copies, in a folder that git ignores."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_make_lab_opens_copies_that_git_ignores(tmp_path):
    clone = tmp_path / "clone"
    for part in ("explore", "runs"):
        shutil.copytree(ROOT / "nbs" / part, clone / "nbs" / part, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("settings.ini", "setup.py", ".gitignore", "Makefile"):
        shutil.copy(ROOT / name, clone / name)
    for words in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", "as cloned"],
    ):
        subprocess.run(["git", "-C", clone, *words], check=True)
    stand_in = tmp_path / "venv"  # its Python is ours, and its jupyter prints how it was called
    (stand_in / "bin").mkdir(parents=True)
    for name, line in (("python", f'exec {sys.executable} "$@"'), ("jupyter", 'echo "jupyter $@"')):
        (stand_in / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (stand_in / "bin" / name).chmod(0o755)
    (stand_in / ".installed").touch()
    n = len(list(clone.rglob("*.ipynb")))
    done = subprocess.run(["make", "lab", f"VENV={stand_in}"], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        f"{n} made now" in done.stdout
        and f"jupyter lab --ServerApp.root_dir={clone} --LabApp.default_url=/lab/tree/lab" in done.stdout
    )
    assert len(list((clone / "lab").rglob("*.ipynb"))) == n
    assert subprocess.run(["git", "-C", clone, "status", "--porcelain"], capture_output=True, text=True).stdout == ""
