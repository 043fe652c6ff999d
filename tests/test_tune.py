"""Tuning as a user runs it: several workers, one that is killed, and what is refused."""

import dataclasses
import os
import signal
import subprocess
import sys

import optuna
import pandas as pd
import psutil
import pytest
from conftest import ROOT, papermill_command, wait_until

from mil_workbench.files import read_json
from mil_workbench.record.status import study_states
from mil_workbench.workflows import train, tune, tune_figures, tune_study

BASE = "cohort=digits model=abmil epochs={} warmup_epochs=1 batch_size=16 bag_size=8 device=cpu patience=None"
SPACE = "lr=1e-6..1e-1 log; dropout=0..0.5"


def trials_of(study):
    found = optuna.load_study(study_name=study.name, storage=tune_study.open_storage(study / "tuning.journal"))
    return found.trials


def names(trials):
    return [trial.state.name for trial in trials]


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A folder that counts as the project, so that runs land in it."
    (tmp_path / "settings.ini").touch()
    (tmp_path / "nbs").symlink_to(ROOT / "nbs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_workers_share_a_study_and_prune_the_bad(project):
    options = {"study": "shared", "trials": 9, "base": BASE.format(2), "space": SPACE, "seed": 1}
    workers = [
        subprocess.Popen(
            papermill_command("tune", project / f"{n}.ipynb", project, **options, worker=n, run_name=f"w{n}"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    for worker in workers:
        complaint = worker.communicate()[1]
        assert worker.returncode == 0, complaint[-2000:]
    study = project / "papermill_runs/shared"
    trials = trials_of(study)
    assert len(trials) == 9 and set(names(trials)) == {"COMPLETE", "PRUNED"}
    assert len({tuple(trial.params.values()) for trial in trials}) == 9
    assert {trial.user_attrs["worker"] for trial in trials} == {"w0", "w1"}
    best = min((trial for trial in trials if trial.state.name == "COMPLETE"), key=lambda trial: trial.value)
    assert all(trial.params["lr"] < best.params["lr"] for trial in trials if trial.state.name == "PRUNED")

    runs = sorted(study.glob("digits-*"))
    assert len(runs) == 9 and all(read_json(run / "attempt.json")["attempt"] == 1 for run in runs), "each was run once"
    states = [state.state for name, state in study_states(study).items() if name.startswith("digits-")]
    assert sorted(states) == sorted({"COMPLETE": "finished", "PRUNED": "pruned"}[name] for name in names(trials))
    of_workers = [read_json(study / name / "metrics.json") for name in ("w0", "w1")]
    last = max(of_workers, key=lambda metrics: metrics["trials"]["finished"] + metrics["trials"]["pruned"])
    assert last["best"]["parameters"] == best.params and sum(last["trials"].values()) == 9


def wait_for(path, n_epochs, process):
    find = lambda: next(
        (history for history in path.glob("digits-*/history.csv") if len(pd.read_csv(history)) >= n_epochs), None
    )
    wait_until(find, process)
    return find()


def test_worker_stopped_and_killed_in_mid_trial_resumes(project):
    words = [
        "--study",
        "cut",
        "--run-name",
        "w",
        "--trials",
        "2",
        "--base",
        BASE.format(20),
        "--space",
        "lr=1e-4..1e-2 log",
    ]
    command = [sys.executable, "-m", "mil_workbench.jobs.cli", "run", "tune", *words]
    study = project / "papermill_runs/cut"
    begin = lambda: subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )

    asked = begin()
    history = wait_for(study, 3, asked)
    asked.send_signal(signal.SIGTERM)
    assert "interrupted: stopped by SIGTERM" in asked.communicate()[1] and asked.returncode == os.EX_TEMPFAIL
    states = study_states(study)
    assert (states["w"].state, states[history.parent.name].state) == ("interrupted", "interrupted")
    before = pd.read_csv(history)

    killed = begin()
    wait_for(study, len(before) + 5, killed)
    for member in [*psutil.Process(killed.pid).children(recursive=True), psutil.Process(killed.pid)]:
        member.kill()
    killed.communicate()
    then = pd.read_csv(history)
    pd.testing.assert_frame_equal(then.iloc[: len(before)], before)
    assert len(then) < 20 and study_states(study)[history.parent.name].state == "failed"

    last = begin()
    assert last.communicate() and last.returncode == 0
    trials = trials_of(study)
    assert names(trials) == ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[0].params == trials[1].params == trials[2].params != trials[3].params
    assert [trial.user_attrs.get("kills") for trial in trials] == [None, 0, 1, None]
    whole = pd.read_csv(history)
    sure = len(then) - 1  # of the last epoch the history may have been written and the state not yet
    pd.testing.assert_frame_equal(whole.iloc[:sure], then.iloc[:sure])  # the seconds too: none of them was run again
    pd.testing.assert_frame_equal(whole.iloc[: len(then)].drop(columns="seconds"), then.drop(columns="seconds"))
    assert len(whole) == 20 and trials[2].value == pytest.approx(whole.validation_cross_entropy.min())
    assert {state.state for state in study_states(study).values()} == {"finished"}
    assert read_json(study / "w/metrics.json")["trials"] == {"finished": 2, "interrupted": 2}


def tune_here(study):
    values = {
        "study": study,
        "run_name": "w",
        "worker": 0,
        "trials": 3,
        "space": SPACE,
        "base": BASE.format(2),
        "folds_per_trial": 2,
        "seed": 3,
    }
    search = tune_study.start_with(values)
    tune.run_trials(search)
    tune.finish(search)
    runs = [search.run_folder(trial.params, fold) for trial in search.study.trials for fold in range(2)]
    return (
        [(trial.params, trial.value) for trial in search.study.trials],
        tune_figures.best_trial(search).number,
        [read_json(run / "metrics.json")["test"]["auroc"] for run in runs],
    )


def test_test_cases_have_no_say(project, monkeypatch):
    trials, best, scores = tune_here("clean")
    split = train.split

    def with_wrong_test_labels(run, cohort):
        sets = split(run, cohort)
        return {**sets, "test": [dataclasses.replace(bag, label=1 - bag.label) for bag in sets["test"]]}

    monkeypatch.setattr(train, "split", with_wrong_test_labels)
    other_trials, other_best, other_scores = tune_here("poisoned")
    assert other_scores == pytest.approx([1 - score for score in scores]) and other_scores != scores, (
        "the poison has worked"
    )
    assert (other_trials, other_best) == (trials, best)


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--space", "dropuot=0..0.5"],
            "space: 'dropuot=0..0.5': there is no parameter 'dropuot'; did you mean dropout?",
        ),
        (["--space", "weight_decay=0..1 log"], "space: 'weight_decay=0..1 log': a logarithm begins above 0"),
        (
            ["--base", "model=mean", "--space", "attention_layers=1..3"],
            "base and space: attention_layers 3 has no effect on model mean",
        ),
    ],
)
def test_bad_space_is_refused_before_anything_is_submitted(project, words, message):
    command = [
        sys.executable,
        "-m",
        "mil_workbench.jobs.cli",
        "submit",
        "tune",
        "--study",
        "bad",
        "--local",
        "2",
        "--worker",
        "0-9",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    assert not (project / "papermill_runs" / "bad").exists()
