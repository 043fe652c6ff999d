"""The launcher: every way in which a run can end, and what is recorded about it."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mil_workbench.files import read_json
from mil_workbench.record.status import run_state, study_states

MIL_WORKBENCH = [sys.executable, "-m", "mil_workbench.jobs.cli"]
LISTENING = ["env", "--default-signal=INT,HUP"]  # these tests may themselves run in the background of a script
PARAMETERS = """\
how: str = "well"  # how it ends
study: str = "s"  # folder of runs
run_name: str | None = None  # folder of this run"""
BODY = """
import os, signal, sys, time
from pathlib import Path
from mil_workbench.record.rules import default_run_name
folder = Path("papermill_runs") / study / (run_name or default_run_name({"how": how}))
if how == "error": raise ValueError("the cell says no")
if how == "exit": sys.exit(0)
if how == "memory": os.kill(os.getpid(), signal.SIGKILL)
if how == "crash": os._exit(3)
if how == "full": (folder / "big").write_bytes(bytes(10**7))
if how == "slow":
    (folder / "begun").touch()
    time.sleep(600)
if how == "keeps":
    asked = []
    signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
    (folder / "begun").touch()
    while not asked: time.sleep(0.05)
    (folder / "kept").touch()
    raise RuntimeError("asked to stop")
if how == "stubborn":
    signal.signal(signal.SIGUSR1, lambda *_: (folder / "heard").touch())
    (folder / "begun").touch()
    while True: time.sleep(0.05)
if how == "deleted":
    import shutil
    shutil.rmtree(folder)
if how == "half":
    (folder / "metrics.json").write_text('{"test": {"auroc"')
    sys.exit(0)
"""


def write_notebook(path: Path, *sources: str) -> None:
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"c{i}",
            "metadata": {"tags": ["parameters"]} if i == 0 else {},
            "outputs": [],
            "source": source,
        }
        for i, source in enumerate(sources)
    ]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture
def project(tmp_path):
    (tmp_path / "settings.ini").touch()
    write_notebook(
        tmp_path / "page.ipynb",
        PARAMETERS,
        BODY,
        'print("here", os.environ["JUPYTER_RUNTIME_DIR"], os.environ["IPYTHONDIR"])',
        '(folder / "metrics.json").write_text("{\\"cohort\\": 1}")',
    )
    return tmp_path


def wait_until(condition, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def left_of(project: Path) -> list[int]:
    "The processes that were started for this project and are still there."
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.status() != psutil.STATUS_ZOMBIE
                and process.pid != os.getpid()
                and Path(process.cwd()) == project
            ):
                left.append(process.pid)
    return left


def run(project: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*MIL_WORKBENCH, *words], cwd=project, capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    "how, reason",
    [
        ("error", "ValueError: the cell says no"),
        (
            "exit",
            "the notebook ended before it had written metrics.json; "
            "its cell 4 was not run, so something before it called sys.exit",
        ),
        (
            "memory",
            "the kernel was killed (signal 9); if memory ran out, ask for more, "
            "or give a smaller batch_size, bag_size or encoder_chunk",
        ),
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
    assert (
        "metrics.json" not in done.stderr
        and not (folder / ".writer.json").exists()
        and not (folder / ".reserve").exists()
    )
    places = done.stdout.split("here ")[1].split("\n")[0].split()
    assert places[0] == places[1] and not Path(places[0]).exists(), "a folder of its own, gone afterwards"
    assert not [path.name for path in project.iterdir() if "ipc" in path.name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_stop_signal_leaves_an_interrupted_run(project, number):
    process = subprocess.Popen(
        [*LISTENING, *MIL_WORKBENCH, "run", "page.ipynb", "--how", "slow", "--run-name", "slow"],
        cwd=project,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = project / "papermill_runs" / "s" / "slow"
    wait_until((folder / "begun").exists)
    second = run(project, "run", "page.ipynb", "--how", "slow", "--run-name", "slow")
    assert (
        second.returncode == 2
        and "another process is writing here (host" in second.stderr
        and second.stderr.count("\n") == 1
    )
    assert study_states(folder.parent)["slow"].state == "running"
    process.send_signal(number)
    assert process.wait(600) == os.EX_TEMPFAIL
    state = run_state(folder)
    assert (state.state, state.reason) == ("interrupted", f"stopped by {number.name}; the same call resumes it")


def in_background(project: Path, command: str) -> tuple[subprocess.Popen, int]:
    """A shell script that starts `command` with an ampersand, as people do, and waits for it.

    Returns the script, and the number of the command's process.
    """
    (project / "script.sh").write_text(f"#!/bin/sh\n{command} >output 2>&1 &\necho $! >pid\nwait $!\necho $? >code\n")
    script = subprocess.Popen(["env", "--default-signal=HUP", "sh", "script.sh"], cwd=project)
    wait_until(lambda: (project / "pid").exists() and (project / "pid").read_text().endswith("\n"))
    return script, int((project / "pid").read_text())


SUBMIT = f"{sys.executable} -m mil_workbench.jobs.cli submit page.ipynb --study s --local 2"


def begun(project: Path, n: int) -> bool:
    return len(list(project.glob("papermill_runs/s/*/begun"))) == n


@pytest.mark.parametrize("first, number", [("", signal.SIGTERM), ("nohup ", signal.SIGTERM), ("", signal.SIGKILL)])
def test_submit_in_the_background_of_a_script_is_stopped_with_its_tasks(project, first, number):
    script, process = in_background(project, f"{first}{SUBMIT} --how keeps,stubborn,slow --report")
    wait_until(lambda: begun(project, 2))
    os.kill(process, signal.SIGINT)  # which the shell has it ignore, as it should
    os.kill(process, number)
    wait_until(lambda: list(project.glob("papermill_runs/s/*/kept")) and list(project.glob("papermill_runs/s/*/heard")))
    if number == signal.SIGTERM:
        assert script.poll() is None, "it waits for its tasks"
        os.kill(process, signal.SIGTERM)  # one task does not end by itself
    else:
        [heard] = project.glob("papermill_runs/s/*/heard")
        os.kill(
            read_json(heard.parent / ".writer.json")["process"], signal.SIGTERM
        )  # the second stop, after the end of its parent
    script.wait(600)
    wait_until(lambda: not left_of(project))
    states = {state.state: state.reason for state in study_states(project / "papermill_runs" / "s").values()}
    by = "SIGTERM" if number == signal.SIGTERM else "the end of the process that had started it"
    assert states == {"interrupted": f"stopped by {by}; the same call resumes it", "waiting": ""}
    assert (project / "code").read_text() == ("75\n" if number == signal.SIGTERM else "137\n")
    if number == signal.SIGTERM:
        assert "SIGTERM: each task finishes its batch and saves its state" in (project / "output").read_text()


def test_submit_that_is_stopped_before_a_task_has_begun_runs_no_more(project):
    script, process = in_background(project, f"{SUBMIT} --how slow,keeps,stubborn")
    output = project / "output"
    wait_until(lambda: output.exists() and "running 3 tasks" in output.read_text())
    wait_until(lambda: list(project.glob("papermill_runs/s/submitted/1/logs/*")))
    os.kill(process, signal.SIGTERM)
    os.kill(process, signal.SIGTERM)
    script.wait(600)
    wait_until(lambda: not left_of(project))
    assert not begun(project, 3)


def test_run_in_the_background_of_a_script_is_stopped(project):
    script, process = in_background(
        project, f"{sys.executable} -m mil_workbench.jobs.cli run page.ipynb --how keeps --run-name one"
    )
    wait_until(lambda: begun(project, 1))
    os.kill(process, signal.SIGINT)
    os.kill(process, signal.SIGHUP)
    os.kill(process, signal.SIGHUP)  # a terminal may announce twice that it closes
    script.wait(600)
    assert (project / "code").read_text() == "75\n" and (project / "papermill_runs/s/one/kept").exists()
    assert run_state(project / "papermill_runs/s/one").reason == "stopped by SIGHUP; the same call resumes it"
    wait_until(lambda: not left_of(project))


@pytest.mark.parametrize(
    "command", ["run page.ipynb --how keeps --run-name one", "submit page.ipynb --study s --how keeps --local 1"]
)
def test_closing_the_terminal_keeps_the_state(project, command):
    shell, terminal = pty.fork()
    if shell == 0:  # as a person at a terminal
        os.chdir(project)
        os.execvp("env", [*LISTENING, *MIL_WORKBENCH, *command.split()])
    wait_until(lambda: begun(project, 1))
    os.close(terminal)
    _, code = os.waitpid(shell, 0)
    assert os.waitstatus_to_exitcode(code) == 75
    [state] = study_states(project / "papermill_runs" / "s").values()
    assert state.state == "interrupted" and list(project.glob("papermill_runs/s/*/kept"))
    wait_until(lambda: not left_of(project))


def test_output_that_nobody_reads_ends_no_run(project):
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(MIL_WORKBENCH)} run page.ipynb --run-name one | true; exit ${{PIPESTATUS[0]}}"],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "") and run_state(project / "papermill_runs/s/one").state == "finished"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*MIL_WORKBENCH, "run", "page.ipynb", "--run-name", "two"], cwd=project, stdout=full, stderr=full
        )
    assert done.returncode == 0 and run_state(project / "papermill_runs/s/two").state == "finished"


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
        assert run_state(disk / "full").reason == (
            f"OSError: [Errno 28] No space left on device: '{disk}/full/page.ipynb'; "
            "free space there, then give the same call again"
        )
        done = run(project, "run", "page.ipynb", "--how", "full", "--run-name", "again")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(f"mil-workbench: {disk / 'again'}") and done.stderr.endswith(
            ": cannot be written to (No space left on device); free space there, then give the same call again\n"
        )
    finally:
        subprocess.run(["umount", disk], check=True)


def test_read_only_disk_is_refused_in_one_line(project):
    disk = project / "papermill_runs"
    small_disk(disk, "ro,size=300k")
    try:
        done = run(project, "run", "page.ipynb", "--run-name", "one")
        assert done.returncode == 2
        assert done.stderr.strip() == (
            f"mil-workbench: {disk / 's' / 'one'}: cannot be written to (Read-only file system); "
            "run where you may write, or have that made writable"
        )
        done = run(project, "submit", "page.ipynb", "--study", "s", "--how", "well,error", "--local", "2")
        assert (
            done.returncode == 2
            and "cannot be written to (Read-only file system)" in done.stderr
            and done.stderr.count("\n") == 1
        )
    finally:
        subprocess.run(["umount", disk], check=True)


def test_folder_that_turns_read_only_is_reported_as_such(project):
    disk = project / "papermill_runs"
    small_disk(disk, "size=3m")
    try:
        process = subprocess.Popen(
            [*MIL_WORKBENCH, "run", "page.ipynb", "--how", "keeps", "--run-name", "one"],
            cwd=project,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: begun(project, 1))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        process.terminate()
        _, complaint = process.communicate(timeout=600)
        assert process.returncode == os.EX_TEMPFAIL
        reason = (
            "interrupted: stopped by SIGTERM; the same call resumes it; this could not be recorded: "
            f"{disk / 's' / 'one'}: cannot be written to (Read-only file system); run where"
        )
        assert reason in complaint
        state = run_state(disk / "s" / "one")
        assert state.state == "failed" and "memory" not in state.reason
        assert state.reason.endswith(
            "left no final record: it was killed, lost with its node, or could not write; "
            "its last output may say which; the same call resumes it; "
            "the folder cannot be written to now (Read-only file system)"
        )
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert run(project, "run", "page.ipynb", "--run-name", "one").returncode == 0, "the folder is free again"
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize(
    "how, reason",
    [
        ("deleted", "{folder}: is gone, deleted or moved while the run was writing there; this run ends here"),
        (
            "half",
            "the notebook ended before it had written metrics.json; "
            "its cell 4 was not run, so something before it called sys.exit",
        ),
    ],
)
def test_what_happened_to_the_folder_is_reported(project, how, reason):
    done = run(project, "run", "page.ipynb", "--how", how, "--run-name", "one")
    folder = project / "papermill_runs" / "s" / "one"
    assert (
        done.returncode == 1
        and done.stderr.strip().splitlines()[-1] == f"{folder}: failed: {reason.format(folder=folder)}"
    )
    assert folder.exists() == (how == "half")
    if how == "half":
        assert run_state(folder).reason == "metrics.json is incomplete; the same call writes it again"
        again = run(project, "run", "page.ipynb", "--run-name", "one")
        assert again.returncode == 0 and run_state(folder).state == "finished"


def test_notebook_without_its_cell(project):
    write_notebook(project / "bare.ipynb", "x = 1")
    (project / "bare.ipynb").write_text((project / "bare.ipynb").read_text().replace('"parameters"', '"other"'))
    done = run(project, "run", "bare.ipynb")
    assert done.returncode == 2 and done.stderr.endswith(
        "bare.ipynb: has 0 cells tagged parameters; a run notebook has exactly one\n"
    )


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
    write_notebook(
        project / "first.ipynb",
        PARAMETERS,
        'import time\nfrom pathlib import Path\nPath("first").write_text(str(time.time()))',
    )
    (project / "papermill_runs").mkdir()
    waited = {"papermill": [], "mil-workbench": []}
    for i in range(3):
        commands = {
            "papermill": [
                sys.executable,
                "-m",
                "papermill",
                "first.ipynb",
                "papermill_runs/out.ipynb",
                "-p",
                "how",
                "well",
            ],
            "mil-workbench": [*MIL_WORKBENCH, "run", "first.ipynb", "--run-name", f"r{i}"],
        }
        for name, command in commands.items():
            began = time.time()
            subprocess.run(command, cwd=project, capture_output=True)
            waited[name].append(float((project / "first").read_text()) - began)
    by_papermill, by_workbench = min(waited["papermill"]), min(waited["mil-workbench"])
    print(f"to the first cell: papermill {by_papermill:.1f} s, mil-workbench {by_workbench:.1f} s")
    assert by_workbench - by_papermill <= 3


def test_status_continues_past_a_broken_study_and_reads_runs_without_attempts(project):
    old, bad = project / "papermill_runs" / "old", project / "papermill_runs" / "bad" / "submitted" / "1"
    for name in "ab":
        (old / name).mkdir(parents=True)
        (old / name / "params.yaml").write_text(
            "cohort: digits\nmodel: mean\nfold: 0\nseed: 0\n"
        )  # version 0.1.0, run by papermill alone
    (old / "a" / "metrics.json").write_text('{"protocol": "train_validation_test", "test": {"auroc": 0.9}}')
    bad.mkdir(parents=True)
    (bad / "tasks.jsonl").write_text("nonsense\n")
    done = run(project, "status")
    assert done.returncode == 2 and done.stderr == f"mil-workbench: {bad / 'tasks.jsonl'}: line 1 is not a task\n"
    assert (
        done.stdout
        == "old: 2 runs: 1 finished, 1 failed\nfailed      b: has no metrics.json; its notebook may say why\n"
    )
    assert run(project, "collect", "old").returncode == 0
    assert (
        (old / "runs.csv")
        .read_text()
        .splitlines()[1]
        .startswith("a,finished,,0,digits,mean,0,0,train_validation_test,0.9")
    )
