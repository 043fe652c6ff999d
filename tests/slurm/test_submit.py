"""What users do with a cluster, on a real Slurm: arrays of folds, preemption, limits, lost nodes, refusals."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from mil_workbench.files import InputError, read_json
from mil_workbench.jobs.slurm import submit_scripts
from mil_workbench.record.parameters import read_parameters
from mil_workbench.record.status import run_state, study_states
from mil_workbench.workflows.run_many import run_many

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster
ROOT = Path(__file__).resolve().parent.parent.parent
MIL_WORKBENCH = [sys.executable, "-m", "mil_workbench.jobs.cli"]
TRAINING = [
    "--cohort",
    "digits",
    "--epochs",
    "24",
    "--warmup-epochs",
    "2",
    "--batch-size",
    "8",
    "--bag-size",
    "16",
    "--lr",
    "3e-3",
    "--dropout",
    "0.5",
    "--patience",
    "None",
    "--device",
    "cpu",
]
PAGE = """
import os, time
from pathlib import Path
from mil_workbench.record.rules import default_run_name
folder = Path("papermill_runs") / study / default_run_name({"how": how})
(folder / "begun").touch()
if how in ("limit", "requeue", "node", "scancel") and "SLURM_RESTART_COUNT" not in os.environ: time.sleep(600)
(folder / "metrics.json").write_text('{"cohort": 1}')
"""


@pytest.fixture
def project(tmp_path, cluster, monkeypatch):
    "A project with a filled-in profile, beside a running cluster."
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.env[name])
    (tmp_path / "settings.ini").touch()
    profile = (ROOT / "slurm" / "quest.toml").read_text()
    for name, value in {
        "account": "p12345",
        "environment": str(Path(sys.executable).parent.parent),
        "partition": "scavenge",
        "time": "00:30:00",
        "memory": "300M",
    }.items():
        profile = re.sub(rf'(?m)^{name} = ".*?"', f'{name} = "{value}"', profile)
    profile = (
        profile.replace('modules = ["mamba/24.3.0"]', "modules = []")
        .replace("cores = 8", "cores = 1")
        .replace("max_running = 50", "max_running = 2")
    )
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "quest.toml").write_text(
        profile + 'partitions.scavenge = { longest = "48:00:00" }\npartitions.nosuch = { longest = "48:00:00" }\n'
    )
    cell = (
        'how: str = "well"  # how it ends\nstudy: str = "s"  # folder of runs\n'
        "run_name: str | None = None  # folder of this run"
    )
    cells = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"c{i}",
            "metadata": {"tags": tags},
            "outputs": [],
            "source": source,
        }
        for i, (tags, source) in enumerate(((["parameters"], cell), ([], PAGE)))
    ]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    (tmp_path / "page.ipynb").write_text(
        json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    )
    yield tmp_path
    cluster.run("scancel", "--me", "--signal=KILL")
    cluster.run("scancel", "--me")
    cluster.wait_for(lambda: not cluster.run("squeue", "-h", "-o", "%A"), "the queue to empty")


def workbench(project: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*MIL_WORKBENCH, *words], cwd=project, capture_output=True, text=True)


def submitted_job(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    return re.search(r"as job (\d+)", done.stdout)[1]


def logs(project: Path) -> str:
    return "\n".join(
        f"{path.name}: {path.read_text()[-1500:]}"
        for path in sorted(project.glob("papermill_runs/*/submitted/*/logs/*"))
    )


def logs_whole(project: Path) -> str:
    return "\n".join(path.read_text() for path in project.glob("papermill_runs/*/submitted/*/logs/*"))


@pytest.mark.slow  # four minutes and more of waiting; the next tests stop and requeue a single job
@pytest.mark.parametrize("n_folds", [3, 5])
def test_folds_that_are_each_preempted_end_by_themselves_with_local_numbers(cluster, project, monkeypatch, n_folds):
    end, folds = time.monotonic() + 1800, f"0-{n_folds - 1}"
    done = workbench(project, "submit", "train", "--study", "folds", "--fold", folds, *TRAINING, "--report")
    submitted_job(done)
    assert (
        "each asks for           1 cores, 300M, 00:30:00 on scavenge, account p12345; at most 2 at a time"
        in done.stdout
    )
    study = project / "papermill_runs" / "folds"
    names = [json.loads(line)["run_name"] for line in (study / "submitted/1/tasks.jsonl").read_text().splitlines()]
    most_at_once, spared = 0, set(names)
    while spared:
        states = study_states(study)
        running = {name for name in names if states[name].state == "running"}
        most_at_once = max(most_at_once, len(running))
        training = {name for name in running & spared if (study / name / "history.csv").exists()}
        if training and (len(training) == 2 or len(spared) == 1):  # both nodes are taken for a moment
            cluster.run(
                "sbatch",
                "--parsable",
                "--partition=short",
                "--nodes=2",
                "--cpus-per-task=2",
                "--exclusive",
                "--output=/dev/null",
                input="#!/bin/sh\nsleep 1\n",
            )
            cluster.wait_for(
                lambda: (
                    not any(state.state == "running" for name, state in study_states(study).items() if name in training)
                ),
                "the preemption",
            )
        spared -= {
            name
            for name in names
            if (study / name / "attempts").exists()
            or states[name].state in ("interrupted", "queued")
            and states[name].attempts
        }
        spared -= {name for name in names if states[name].state == "finished"}
        assert time.monotonic() < end, logs(project)
        time.sleep(0.2)
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the array and its report")
    assert {state.state for state in study_states(study).values()} == {"finished"}, logs(project)
    assert min(state.attempts for name, state in study_states(study).items() if name in names) >= 2, logs(project)
    assert most_at_once == 2
    kept = [read_json(study / name / "attempts" / "1.json") for name in names]
    assert {record["state"] for record in kept} == {"interrupted"} and {record["reason"] for record in kept} == {
        "stopped by SIGUSR1; the same call resumes it"
    }
    assert any("asked to stop after" in (study / name / "attempts" / "1.ipynb").read_text() for name in names), (
        "stopped within an epoch"
    )
    resumed = [(study / name / "train.ipynb").read_text() for name in names]
    assert all("resuming " in text for text in resumed)

    monkeypatch.chdir(project)
    defaults = {name: parameter.default for name, parameter in read_parameters(ROOT / "nbs/runs/train.ipynb").items()}
    given = [json.loads(line)["given"] for line in (study / "submitted/1/tasks.jsonl").read_text().splitlines()]
    for folder in run_many([{**row, "study": "local"} for row in given], defaults, n_workers=2):
        here, there = folder.path, study / folder.path.name
        assert read_json(here / "metrics.json") == read_json(there / "metrics.json")
        assert (here / "predictions.csv").read_bytes() == (there / "predictions.csv").read_bytes()
        histories = [pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (here, there)]
        pd.testing.assert_frame_equal(*histories, check_exact=True)
    assert (study / "report" / "metrics.json").exists() and (study / "runs.csv").exists(), logs(project)
    again = workbench(project, "submit", "train", "--study", "folds", "--fold", folds, *TRAINING)
    assert again.stdout.splitlines()[-2].split(maxsplit=1) == ["tasks", f"0, {n_folds} more finished"], (
        "what has finished is not run again"
    )


def test_time_limit_requeue_lost_node_and_scancel(cluster, project):
    profile = project / "slurm" / "quest.toml"
    profile.write_text(profile.read_text().replace("max_running = 2", "max_running = 4"))
    struck = ("limit", "requeue", "node", "scancel")
    job = submitted_job(workbench(project, "submit", "page.ipynb", "--study", "struck", "--how", ",".join(struck)))
    study = project / "papermill_runs" / "struck"
    name_of = {
        task["given"]["how"]: task["run_name"]
        for task in map(json.loads, (study / "submitted/1/tasks.jsonl").read_text().splitlines())
    }
    state = lambda how: study_states(study)[name_of[how]]
    cluster.wait_for(
        lambda: all((study / name / "begun").exists() for name in name_of.values()), "the four tasks to begin"
    )
    assert {state(how).state for how in struck} == {"running"}
    cluster.run("scontrol", "update", f"jobid={job}_0", "EndTime=now+30")
    cluster.run("scontrol", "requeue", f"{job}_1")
    cluster.run("scancel", f"{job}_3")
    cluster.wait_for(lambda: state("scancel").state not in ("running", "queued"), "the cancelled task to end")
    assert state("scancel").state in ("interrupted", "failed") and state("scancel").attempts == 1
    node = read_json(study / name_of["node"] / "attempt.json")["host"]
    cluster.kill_node(node)
    try:
        cluster.wait_for(
            lambda: all(state(how).state == "finished" for how in ("limit", "requeue", "node")), "the others to finish"
        )
    finally:
        cluster.start_node(node)
    assert [state(how).attempts >= 2 for how in ("limit", "requeue", "node")] == [True] * 3
    assert read_json(study / name_of["node"] / "attempt.json")["host"] != node
    assert (
        read_json(study / name_of["limit"] / "attempts" / "1.json")["reason"]
        == "stopped by SIGUSR1; the same call resumes it"
    )
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the jobs to end")
    left = workbench(project, "submit", "page.ipynb", "--study", "struck", "--resume", "--dry-run")
    assert left.stdout.splitlines()[0].split() == ["tasks", "1"], "only what was cancelled is resumed"


@pytest.mark.slow
def test_process_of_a_lost_node_that_lives_on_writes_no_more(cluster, project, monkeypatch):
    options = [word if word != "24" else "80" for word in TRAINING]
    submitted_job(workbench(project, "submit", "train", "--study", "lost", "--fold", "0", *options))
    study = project / "papermill_runs" / "lost"
    cluster.wait_for(lambda: list(study.glob("*/history.csv")), "the run to train")
    [run] = [path.parent for path in study.glob("*/history.csv")]
    node = read_json(run / "attempt.json")["host"]
    cluster.kill_node(node, jobs=False)  # Slurm sees it no more, but its processes go on
    try:
        cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the other node to finish the run")
        assert run_state(run).state == "finished" and run_state(run).attempts == 2, logs(project)
        assert "another process has taken this run over (host" in logs_whole(project)
        assert not cluster.processes(node)
    finally:
        cluster.start_node(node)
    monkeypatch.chdir(project)
    defaults = {name: parameter.default for name, parameter in read_parameters(ROOT / "nbs/runs/train.ipynb").items()}
    [given] = [json.loads(line)["given"] for line in (study / "submitted/1/tasks.jsonl").read_text().splitlines()]
    [alone] = run_many([{**given, "study": "alone"}], defaults, n_workers=1)
    assert read_json(alone / "metrics.json") == read_json(run / "metrics.json")
    histories = [pd.read_csv(folder / "history.csv").drop(columns="seconds") for folder in (alone, run)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def submit_five_thousand(cluster, project) -> tuple[float, float]:
    "Submit five thousand tasks and ask for them: the seconds that each of the two took."
    cluster.run("scontrol", "update", "partitionname=scavenge", "state=down")
    try:
        seeds = ["--seed", "0-999", "--fold", "0-4", "--cohort", "digits"]
        began = time.perf_counter()
        done = workbench(project, "submit", "train", "--study", "many", *seeds)
        submitting = time.perf_counter() - began
        assert done.returncode == 0, done.stderr
        arrays = read_json(project / "papermill_runs/many/submitted/1/jobs.json")
        assert [array["count"] for array in arrays] == [1001] * 4 + [996]
        assert len(cluster.run("squeue", "-h", "-r").splitlines()) == 5000
        began = time.perf_counter()
        status = workbench(project, "status", "many")
        answering = time.perf_counter() - began
        assert status.stdout.startswith("many: 5000 runs: 5000 queued")
        print(f"5,000 tasks: submitted in {submitting:.1f} s, status in {answering:.1f} s")
        more = workbench(project, "submit", "train", "--study", "more", "--cohort", "digits")
        assert more.returncode == 2 and more.stderr == (
            "mil-workbench: 1 tasks and the 5000 in the queue are more than the 5000 that quest.toml allows "
            "(max_submitted); submit fewer at a time\n"
        )
        again = workbench(project, "submit", "train", "--study", "many", *seeds)
        assert "0, 5000 more queued" in again.stdout
        cluster.run("scancel", *(array["job"] for array in arrays))
        return submitting, answering
    finally:
        cluster.run("scontrol", "update", "partitionname=scavenge", "state=up")


def test_five_thousand_tasks_in_arrays_that_the_site_allows(cluster, project):
    submit_five_thousand(cluster, project)


@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_five_thousand_tasks_are_submitted_in_seconds(cluster, project):
    submitting, answering = submit_five_thousand(cluster, project)
    assert submitting < 5 and answering < 3


def test_what_slurm_refuses_is_one_line_and_nothing_is_submitted_by_halves(cluster, project):
    refused = workbench(project, "submit", "page.ipynb", "--study", "none", "--how", "well", "--partition", "nosuch")
    assert refused.returncode == 2 and refused.stderr.startswith(
        "mil-workbench: sbatch refuses: invalid partition specified: nosuch"
    ), refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list(project.glob("papermill_runs/none/submitted/*")) and not cluster.run("squeue", "-h")
    unknown = workbench(project, "submit", "page.ipynb", "--study", "none", "--partition", "fast")
    assert unknown.returncode == 2 and "partition 'fast' is not known; this profile has short, normal" in unknown.stderr
    for name, partition in (("good", "scavenge"), ("bad", "nosuch")):
        (project / f"{name}.sbatch").write_text(
            f"#!/bin/sh\n#SBATCH --partition={partition}\n#SBATCH --output=/dev/null\nsleep 100\n"
        )
    with pytest.raises(
        InputError, match="sbatch refuses: .*Batch job submission failed: Invalid partition name specified"
    ):
        submit_scripts([project / "good.sbatch", project / "bad.sbatch"], lambda jobs: None)
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "the first of two to be taken back")
    profile = project / "slurm" / "quest.toml"
    profile.write_text(profile.read_text().replace('account = "p12345"', 'account = ""'))
    blank = workbench(project, "submit", "page.ipynb", "--study", "none")
    assert (
        blank.returncode == 2
        and "slurm/quest.toml: account is blank; fill in your allocation" in blank.stderr
        and blank.stderr.count("\n") == 1
    )
    assert "or run on this machine: --local N" in blank.stderr and blank.stdout.splitlines()[-1].split() == [
        "tasks",
        "1",
    ], "the grid is shown first"
    shown = workbench(project, "submit", "page.ipynb", "--study", "none", "--how", "well,limit", "--dry-run")
    assert shown.returncode == 0 and shown.stderr == ""
    assert (
        "how                     well, limit\n" in shown.stdout
        and "tasks                   2\n" in shown.stdout
        and shown.stdout.endswith("or run on this machine: --local N, N tasks at a time\n")
    )
    assert not (project / "papermill_runs" / "none").exists()


def test_names_of_any_text_survive_job_scripts_tasks_and_logs(cluster, project):
    text = 'it\'s "odd": $HOME `x` \\ 🧠 עברית\u2028\n; & | <a> {b} %A #SBATCH'
    names = ["it's 50%A #1 (x); & | > *?!", "🧠 עברית {{ name }}", "n" * 200]
    for name in names:
        submitted_job(
            workbench(
                project, "submit", "page.ipynb", f"--study={name}", "--how", text, *["--report"] * (name == names[0])
            )
        )
    cluster.wait_for(
        lambda: not cluster.run("squeue", "-h", "-o", "%A"), "the jobs to end", 240
    )  # squeue cuts names in the middle of a character
    for name in names:
        study = project / "papermill_runs" / name
        [(_, state)] = [(run, state) for run, state in study_states(study).items() if state.kind == "run"]
        assert (study / "submitted/1/logs").is_dir() and len(list((study / "submitted/1/logs").iterdir())) == 1 + (
            name == names[0]
        ), logs(project)
        assert text.split("\u2028")[0] in logs_whole(project)
        status = workbench(project, "status", name).stdout
        assert status.startswith(f"{name}: 1 run: 1 "), status
        assert state.attempts == 1, (state, logs(project))
    odd = project / 'with "quotes"'
    odd.mkdir()
    for part in ("settings.ini", "page.ipynb", "slurm"):
        (odd / part).symlink_to(project / part)
    refused = workbench(odd, "submit", "page.ipynb", "--study", "s")
    assert (
        refused.returncode == 2
        and refused.stderr.count("\n") == 1
        and "Slurm cannot write logs into a folder with a double quote" in refused.stderr
    )


def test_plain_sbatch_script(cluster, project):
    (project / "papermill_runs").mkdir()
    shutil.copy(ROOT / "slurm" / "train_folds.sbatch", project)
    environment = f"--export=ALL,MIL_WORKBENCH_ENVIRONMENT={Path(sys.executable).parent.parent}"
    options = [
        "--partition=gengpu",
        "--account=p1",
        "--gres=none",
        "--cpus-per-task=1",
        "--mem=300M",
        "--array=0-1",
        environment,
    ]
    cluster.run("sbatch", *options, "train_folds.sbatch", *TRAINING, "--epochs", "3", cwd=project)
    cluster.wait_for(lambda: not cluster.run("squeue", "-h"), "two folds")
    states = study_states(project / "papermill_runs" / "folds")
    assert [state.state for state in states.values()] == ["finished"] * 2, (
        states,
        [path.read_text()[-800:] for path in project.glob("papermill_runs/*.log")],
    )
