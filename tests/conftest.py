"""What the tests of the whole workbench share: running a notebook as a user would, and who has the machine."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "LOKY_MAX_CPU_COUNT": "1",
}  # a test takes one core: threads of three tests that wait for each other make them all several times as slow
QUICK = {
    "cohort": "digits",
    "epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 16,
    "bag_size": 16,
    "lr": 3e-3,
    "device": "cpu",
}


def papermill_command(notebook: str, output: Path, cwd: Path, **parameters) -> list[str]:
    given = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    output.parent.mkdir(parents=True, exist_ok=True)
    return [
        sys.executable,
        "-m",
        "papermill",
        f"{ROOT}/nbs/runs/{notebook}.ipynb",
        str(output),
        "--cwd",
        str(cwd),
        "--start-timeout",
        "600",
        *given,
    ]


def wait_until(condition, process: subprocess.Popen | None = None) -> None:
    "Wait until `condition()` holds, however busy the machine is, while `process` works towards it."
    end = time.monotonic() + 600
    while not condition():
        assert process is None or process.poll() is None, "it ended before"
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


@pytest.fixture
def run_notebook(tmp_path):
    "Run a notebook by papermill in a folder of its own; what the user would see comes back."

    def run(notebook: str = "train", output: str = "out.ipynb", **parameters) -> subprocess.CompletedProcess:
        command = papermill_command(notebook, tmp_path / output, tmp_path, **parameters)
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": ""})

    return run


@pytest.fixture(autouse=True)
def part_of_the_machine(request, tmp_path_factory, monkeypatch):
    "A test that is marked `alone`, since it judges a time, has the machine to itself."
    for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
        monkeypatch.delenv(name)  # tests that run within a job are not the job
    is_alone = request.node.get_closest_marker("alone") is not None
    folder = tmp_path_factory.getbasetemp().parent  # of all workers
    with open(folder / "turnstile", "w") as turnstile, open(folder / "machine", "w") as machine:
        fcntl.flock(turnstile, fcntl.LOCK_EX)  # nobody overtakes a test that waits for the machine
        fcntl.flock(machine, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        yield


def pytest_collection_modifyitems(items):
    "Put the tests that need the machine to themselves first, before anything long has begun."
    items.sort(key=lambda item: item.get_closest_marker("alone") is None)
