"""Preparation on several cores from a plain script: no main guard, a worker that is killed, errors of every kind."""

import json
import os
import subprocess
import sys

from conftest import ROOT

SCRIPT = """
import json, os, signal, sys
import numpy as np
from mil_workbench.data.prepare import prepare
from mil_workbench.data.stores import InstanceStore

class Item:
    def __init__(self, name):
        self.id = name

def make(item):
    if item.id == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    if item.id == "hungry":
        raise MemoryError("a billion voxels")
    if item.id == "odd":
        raise OverflowError("too large")
    return {"instances": np.full((2, 3), len(item.id), np.float32)}

items = [Item(name) for name in ("first", "killer", "second", "hungry", "odd", "third", "fourth", "fifth")]
left_out = prepare(InstanceStore(sys.argv[1]), items, {item.id: {"path": item.id} for item in items}, make, n_workers=2)
print("RESULT", json.dumps([left_out, sorted(InstanceStore(sys.argv[1]).records)]))
"""


def run_script(text: str, *arguments: str, folder) -> subprocess.CompletedProcess:
    "Run `text` as a person's script: a file of its own, in `folder`."
    script = folder / "script.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_a_killed_worker_costs_one_item(tmp_path):
    "Also without a main guard, and with a function of the script itself."
    done = run_script(SCRIPT, tmp_path / "store", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("RESULT") == 1  # no worker runs the script again
    left_out, made = json.loads(done.stdout.split("RESULT")[1])
    assert made == ["fifth", "first", "fourth", "second", "third"]
    assert sorted(left_out) == ["hungry", "killer", "odd"]
    assert "was killed; start again" in left_out["killer"]
    assert "not enough memory" in left_out["hungry"] and "OverflowError: too large" in left_out["odd"]
    assert not (
        tmp_path / "store" / "left_out.json"
    ).exists()  # nothing of this lies in a file: the next start tries again
