"""The launcher: every way in which a run can end, and what the record says of it."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mil_workbench.batch.status import run_state, study_states
from mil_workbench.files import read_json

MIL_WORKBENCH = [sys.executable, "-m", "mil_workbench.batch.cli"]
PARAMETERS = 'how: str = "well"  # how it ends\nstudy: str = "s"  # folder of runs\nrun_name: str | None = None  # folder of this run'
BODY = """
import os, signal, sys, time
from pathlib import Path
from mil_workbench.batch.rules import default_run_name
folder = Path("papermill_runs") / study / (run_name or default_run_name({"how": how}))
if how == "error": raise ValueError("the cell says no")
if how == "exit": sys.exit(0)
if how == "memory": os.kill(os.getpid(), signal.SIGKILL)
if how == "crash": os._exit(3)
if how == "full": (folder / "big").write_bytes(bytes(10**7))
if how == "slow":
    (folder / "begun").touch()
    time.sleep(60)
"""


def write_notebook(path: Path, *sources: str) -> None:
    cells = [{"cell_type": "code", "execution_count": None, "id": f"c{i}", "metadata": {"tags": ["parameters"]} if i == 0 else {}, "outputs": [], "source": source} for i, source in enumerate(sources)]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture
def project(tmp_path):
    (tmp_path / "settings.ini").touch()
    write_notebook(tmp_path / "page.ipynb", PARAMETERS, BODY, 'print("here", os.environ["JUPYTER_RUNTIME_DIR"], os.environ["IPYTHONDIR"])', '(folder / "metrics.json").write_text("{}")')
    return tmp_path


def run(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([*MIL_WORKBENCH, *words], cwd=project, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize(
    "how, reason",
    [
        ("error", "ValueError: the cell says no"),
        ("exit", "the notebook ended before it had written metrics.json; its cell 4 was not run, so something before it called sys.exit"),
        ("memory", "the kernel was killed (signal 9), most likely for memory: ask for more, or give a smaller batch_size, bag_size or encoder_chunk"),
        ("crash", "the kernel died (exit code 3)"),
    ],
)
def test_failure_is_recorded_with_its_reason(project, how, reason):
    done = run(project, "run", "page.ipynb", "--how", how, "--run-name", how)
    folder = project / "papermill_runs" / "s" / how
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == f"{folder}: failed: {reason}"
    state = run_state(folder)
    assert (state.state, state.reason, state.attempts) == ("failed", reason, 1)
    assert read_json(folder / "page.ipynb")["cells"], "the executed notebook is there, and whole"
    assert reason in run(project, "status", "s").stdout


def test_success_attempts_and_kernels_of_their_own(project):
    failed = run(project, "run", "page.ipynb", "--how", "error", "--run-name", "one")
    assert failed.returncode == 1
    done = run(project, "run", "page.ipynb", "--run-name", "one")
    folder = project / "papermill_runs" / "s" / "one"
    assert done.returncode == 0, done.stderr
    assert run_state(folder).attempts == 2 and run_state(folder).state == "finished"
    assert "the cell says no" in (folder / "attempts" / "1.ipynb").read_text()
    assert read_json(folder / "attempts" / "1.json")["state"] == "failed"
    assert "metrics.json" not in done.stderr and not (folder / ".writer.json").exists() and not (folder / ".reserve").exists()
    places = done.stdout.split("here ")[1].split("\n")[0].split()
    assert places[0] == places[1] and not Path(places[0]).exists(), "a folder of its own, gone afterwards"
    assert not [path.name for path in project.iterdir() if "ipc" in path.name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_stop_signal_leaves_an_interrupted_run(project, number):
    process = subprocess.Popen([*MIL_WORKBENCH, "run", "page.ipynb", "--how", "slow", "--run-name", "slow"], cwd=project, stderr=subprocess.PIPE, text=True)
    folder = project / "papermill_runs" / "s" / "slow"
    deadline = time.monotonic() + 60
    while not (folder / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    second = run(project, "run", "page.ipynb", "--how", "slow", "--run-name", "slow")
    assert second.returncode == 2 and "another process is writing here (host" in second.stderr and second.stderr.count("\n") == 1
    assert study_states(folder.parent)["slow"].state == "running"
    process.send_signal(number)
    assert process.wait(20) == os.EX_TEMPFAIL
    state = run_state(folder)
    assert (state.state, state.reason) == ("interrupted", f"stopped by {number.name}; the same call goes on")


def small_disk(path: Path, options: str):
    path.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True).returncode != 0:
        pytest.skip("a small disk can be mounted by root only")


def test_full_disk_is_recorded(project):
    disk = project / "papermill_runs" / "s"
    small_disk(disk, "size=300k")
    try:
        done = run(project, "run", "page.ipynb", "--how", "full", "--run-name", "full")
        assert done.returncode == 1
        assert "OSError: [Errno 28] No space left on device" in run_state(disk / "full").reason
        done = run(project, "run", "page.ipynb", "--how", "full", "--run-name", "again")
        assert done.returncode == 2 and done.stderr.strip().splitlines() == [f"mil-workbench: {disk / 'again'}: cannot be written to (No space left on device); free space there, or run where you may write"]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_read_only_disk_is_refused_in_one_line(project):
    disk = project / "papermill_runs"
    small_disk(disk, "ro,size=300k")
    try:
        done = run(project, "run", "page.ipynb", "--run-name", "one")
        assert done.returncode == 2
        assert done.stderr.strip() == f"mil-workbench: {disk / 's' / 'one'}: cannot be written to (Read-only file system); free space there, or run where you may write"
        done = run(project, "submit", "page.ipynb", "--study", "s", "--how", "well,error", "--local", "2")
        assert done.returncode == 2 and "cannot be written to (Read-only file system)" in done.stderr and done.stderr.count("\n") == 1
    finally:
        subprocess.run(["umount", disk], check=True)


def test_notebook_without_its_cell(project):
    write_notebook(project / "bare.ipynb", "x = 1")
    (project / "bare.ipynb").write_text((project / "bare.ipynb").read_text().replace('"parameters"', '"other"'))
    done = run(project, "run", "bare.ipynb")
    assert done.returncode == 2 and done.stderr.endswith("bare.ipynb: has 0 cells tagged parameters; a run notebook has exactly one\n")


def test_grid_runs_here_and_only_what_is_left(project):
    done = run(project, "submit", "page.ipynb", "--study", "grid", "--how", "well,error", "--local", "2")
    assert done.returncode == 1, done.stderr
    assert "running 2 tasks here, 2 at a time" in done.stdout
    states = study_states(project / "papermill_runs" / "grid")
    assert sorted(state.state for state in states.values()) == ["failed", "finished"]
    again = run(project, "submit", "page.ipynb", "--study", "grid", "--resume", "--local", "1", "--dry-run")
    assert again.stdout.endswith("tasks                   1\n")
    again = run(project, "submit", "page.ipynb", "--study", "grid", "--how", "well", "--local", "1")
    assert "0, 1 more finished" in again.stdout and again.returncode == 0


@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_help_answers_within_half_a_second(project):
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert run(project, "--help").returncode == 0
        assert run(project, "run", "train", "--help").returncode == 0
        seconds.append((time.perf_counter() - began) / 2)
    assert min(seconds) < 0.5, f"{min(seconds):.2f} s"


@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_first_cell_comes_soon_after_what_papermill_takes(project):
    write_notebook(project / "first.ipynb", PARAMETERS, 'import time\nfrom pathlib import Path\nPath("first").write_text(str(time.time()))')
    (project / "papermill_runs").mkdir()
    waited = {"papermill": [], "mil-workbench": []}
    for i in range(3):
        commands = {
            "papermill": [sys.executable, "-m", "papermill", "first.ipynb", "papermill_runs/out.ipynb", "-p", "how", "well"],
            "mil-workbench": [*MIL_WORKBENCH, "run", "first.ipynb", "--run-name", f"r{i}"],
        }
        for name, command in commands.items():
            began = time.time()
            subprocess.run(command, cwd=project, capture_output=True)
            waited[name].append(float((project / "first").read_text()) - began)
    by_papermill, by_workbench = min(waited["papermill"]), min(waited["mil-workbench"])
    print(f"to the first cell: papermill {by_papermill:.1f} s, mil-workbench {by_workbench:.1f} s")
    assert by_workbench - by_papermill <= 3
