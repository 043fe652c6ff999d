"""A run shared by two processes resumes after a stop and a kill with the same numbers, and leaves no process behind."""

import os
import signal
import subprocess
import sys

import pandas as pd
import psutil
import pytest
from conftest import wait_until

OPTIONS = (
    "--cohort digits --epochs 8 --warmup-epochs 1 --batch-size 7 --bag-size 16 --dropout 0.25 --patience None "
    "--lr 1e-3 --device cpu --study shared"
)


def start(folder, name: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "mil_workbench.jobs.cli",
        "run",
        "train",
        *OPTIONS.split(),
        "--n-processes",
        "2",
        "--run-name",
        name,
    ]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_two_processes_are_stopped_and_killed_and_resume(tmp_path):
    (tmp_path / "settings.ini").touch()
    runs = tmp_path / "papermill_runs" / "shared"
    assert start(tmp_path, "two").wait() == 0
    stopped = start(tmp_path, "stopped")
    wait_until((runs / "stopped" / "history.csv").exists, stopped)
    stopped.send_signal(signal.SIGUSR1)
    assert stopped.wait() == os.EX_TEMPFAIL
    assert "asked to stop" in (runs / "stopped" / "train.ipynb").read_text()
    killed = start(tmp_path, "stopped")
    wait_until(lambda: len(pd.read_csv(runs / "stopped" / "history.csv")) >= 4, killed)
    family = psutil.Process(killed.pid).children(recursive=True)
    assert len(family) >= 3  # the kernel and its two processes at least
    family[0].kill()
    assert killed.wait() == 1
    assert not psutil.wait_procs(family, timeout=300)[1], "no process is left behind"
    assert start(tmp_path, "stopped").wait() == 0

    two, resumed = (pd.read_csv(runs / name / "history.csv").drop(columns="seconds") for name in ("two", "stopped"))
    pd.testing.assert_frame_equal(two, resumed, check_exact=True)
    assert (runs / "two" / "predictions.csv").read_bytes() == (runs / "stopped" / "predictions.csv").read_bytes()
