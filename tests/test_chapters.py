"""Every chapter that exports runs from top to bottom, one case each."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted(
    str(path.relative_to(ROOT / "nbs"))
    for path in (ROOT / "nbs").rglob("*.ipynb")
    if not {"runs", "explore", ".ipynb_checkpoints"} & set(path.parts) and path.name != "index.ipynb"
)


ALONE = {"data/phantoms.ipynb", "data/stores.ipynb", "models/benchmark.ipynb", "training/scaling.ipynb"}  # they judge times or memory


@pytest.mark.parametrize("chapter", [pytest.param(chapter, marks=pytest.mark.alone if chapter in ALONE else ()) for chapter in CHAPTERS])
def test_chapter(chapter):
    command = [f"{Path(sys.executable).parent}/nbdev_test", "--path", f"nbs/{chapter}", "--n_workers", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "agg"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
