"""Runs that are killed at any moment and resumed end with the numbers of a run that was left alone."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import pandas as pd
import psutil
import pytest

from mil_workbench.files import read_json

OPTIONS = (
    "--cohort digits --warmup-epochs 5 --batch-size 4 --bag-size 16 --dropout 0.5 --patience None --lr 1e-3 "
    "--device cpu --study killed"
)
SHORTEST = 20  # seconds that an undisturbed run takes, at least
MIL_WORKBENCH = [sys.executable, "-m", "mil_workbench.jobs.cli"]


def start(project: Path, name: str, epochs: int) -> subprocess.Popen:
    log = open(project / f"{name}.log", "ab")  # noqa: SIM115 - the process goes on writing to it
    environment = {**os.environ, "MPLBACKEND": ""}
    return subprocess.Popen(
        [*MIL_WORKBENCH, "run", "train", *OPTIONS.split(), "--epochs", str(epochs), "--run-name", name],
        cwd=project,
        stdout=log,
        stderr=log,
        env=environment,
    )


def family(process: subprocess.Popen) -> list[psutil.Process]:
    "Return the launcher, its kernel, and the processes that the kernel has started."
    try:
        return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def parts(run: Path) -> list[Path]:
    return list(run.rglob(".*.part"))


@dataclass(frozen=True)
class Kill:
    "How a run is disturbed."

    after: float  # seconds
    signal: signal.Signals
    whom: str  # launcher, kernel or all
    in_checkpoint: bool  # at the next moment from then on at which a checkpoint is half written


def draw_kills(n: int, seed: int) -> list[Kill]:
    draw = random.Random(seed)
    kills = []
    for i in range(n):
        if i % 3 == 0:  # a third, so that a quarter is left if a moment is missed
            kills.append(Kill(draw.uniform(8, SHORTEST - 6), signal.SIGKILL, "all", True))
        else:
            number = draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1])
            whom = draw.choice(["launcher", "kernel", "all"]) if number == signal.SIGKILL else "launcher"
            kills.append(Kill(draw.uniform(0.2, SHORTEST), number, whom, False))
    return kills


def strike(process: subprocess.Popen, kill: Kill, run: Path) -> bool:
    "Wait for the moment and send the signal; return whether a checkpoint was half written then."
    time.sleep(kill.after)
    checkpoints, members = run / "checkpoints", family(process)
    while kill.whom == "kernel" and len(members) < 2:  # it has not begun yet
        time.sleep(0.05)
        members = family(process)
    while kill.in_checkpoint and process.poll() is None:
        if checkpoints.exists() and any(name.endswith(".part") for name in os.listdir(checkpoints)):
            break
    for member in reversed({"launcher": members[:1], "kernel": members[1:2], "all": members}[kill.whom]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, kill.signal)
    process.wait()
    return kill.in_checkpoint and any(path.parent == checkpoints for path in parts(run))


def disturb(project: Path, number: int, kill: Kill, epochs: int) -> dict:
    "Start a run, kill it once and resume it; return what became of it."
    name, run = f"killed{number}", project / "papermill_runs" / "killed" / f"killed{number}"
    first = start(project, name, epochs)
    in_checkpoint = strike(first, kill, run)
    was_finished = (run / "metrics.json").exists()
    code = start(project, name, epochs).wait()
    time.sleep(2)  # an orphan would have to notice
    orphans = [other.pid for other in psutil.process_iter(["cmdline"]) if name in (other.info["cmdline"] or [])]
    return {
        "name": name,
        "run": run,
        "code": code,
        "was_finished": was_finished,
        "in_checkpoint": in_checkpoint,
        "orphans": orphans,
        "kill": kill,
    }


def weights(run: Path) -> dict[str, bytes]:
    found = {}
    with h5py.File(run / "attention.h5") as file:
        file.visititems(
            lambda name, item: found.__setitem__(name, item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
        )
    return found


def killed_and_resumed(project: Path, n: int, seed: int, epochs: int = 50) -> None:
    reference = project / "papermill_runs" / "killed" / "whole"
    while True:
        began = time.monotonic()
        assert start(project, "whole", epochs).wait() == 0, (project / "whole.log").read_text()[-2000:]
        seconds = time.monotonic() - began
        if seconds >= SHORTEST:
            break
        shutil.rmtree(reference)  # a quick machine
        epochs = int(epochs * 1.2 * SHORTEST / seconds)
    with ThreadPoolExecutor(2) as pool:
        disturbed = [
            pool.submit(disturb, project, number, kill, epochs) for number, kill in enumerate(draw_kills(n, seed))
        ]
        results = [future.result() for future in disturbed]
    history = pd.read_csv(reference / "history.csv").drop(columns="seconds")
    for result in results:
        run, log = result["run"], (project / f"{result['name']}.log").read_text()[-2000:]
        assert result["code"] == 0, (result["kill"], log)
        pd.testing.assert_frame_equal(
            pd.read_csv(run / "history.csv").drop(columns="seconds"), history, check_exact=True
        )
        assert (run / "predictions.csv").read_bytes() == (reference / "predictions.csv").read_bytes(), result["kill"]
        assert read_json(run / "metrics.json") == read_json(reference / "metrics.json"), result["kill"]
        assert weights(run) == weights(reference), result["kill"]
        assert not parts(run) and not result["orphans"] and not (run / ".writer.json").exists(), result["kill"]
        read_json(run / "train.ipynb")
    struck = [result for result in results if not result["was_finished"]]
    assert len(struck) >= n - n // 5, "most runs were killed before their end"
    in_checkpoint = sum(result["in_checkpoint"] for result in struck)
    print(
        f"{len(struck)} of {n} killed before their end, {in_checkpoint} of them while a checkpoint was being written; "
        f"the undisturbed run took {seconds:.0f} s"
    )
    for result in results:
        print(
            f"  {result['kill'].signal.name} to {result['kill'].whom} after {result['kill'].after:.1f} s"
            + (", while a checkpoint was being written" if result["in_checkpoint"] else "")
        )
    assert in_checkpoint >= n / 4


@pytest.fixture
def project(tmp_path):
    (tmp_path / "settings.ini").touch()
    return tmp_path


def test_two_killed_runs_end_as_one_left_alone(project):
    killed_and_resumed(project, n=2, seed=1)


@pytest.mark.slow
def test_twenty_killed_runs_end_as_one_left_alone(project):
    killed_and_resumed(project, n=20, seed=2)
