"""Runs of version 0.1 open in this one: the same parameters, model, probabilities and attention, to the bit."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mil_workbench.evaluation.crossval import pool
from mil_workbench.files import read_json
from mil_workbench.record.parameters import defaults_of, shipped_parameters
from mil_workbench.record.results import read_predictions
from mil_workbench.record.runs_table import collect, group_runs
from mil_workbench.record.status import study_states
from mil_workbench.training.prediction import predict, read_attention
from mil_workbench.workflows.finished import open_run
from mil_workbench.workflows.run_many import run_once

RUNS = {"selection": "dual_stream", "attention": "gated_abmil", "stains": "hierarchical_attention"}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    "A project with the runs in its study `old`, and their cohorts."
    before = Path(__file__).with_name("runs_of_0_1")
    shutil.copytree(before, tmp_path, dirs_exist_ok=True)
    for name in RUNS:
        shutil.move(tmp_path / name, tmp_path / "papermill_runs" / "old" / name)
    (tmp_path / "settings.ini").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "model"), RUNS.items())
def test_an_earlier_run_predicts_what_it_recorded(project, name, model):
    run = open_run(f"papermill_runs/old/{name}")
    assert (run.parameters.model, run.parameters.preset, run.kept) == (model, "recommended", run.kept)
    assert {path.name for path in run.folder.path.iterdir()} >= {"params.yaml"} and run.classes == ("healthy", "tumour")
    predictions = predict(run.model, [run.bag(case) for case in run.cases("test")])
    recorded = run.predictions[run.predictions.set == "test"].set_index("case_id").loc[list(predictions.ids)]
    columns = [f"probability_{each}" for each in run.classes]
    # the function is the same; the order in which it is computed may change between versions
    np.testing.assert_allclose(predictions.probabilities, recorded[columns].to_numpy(), rtol=0, atol=1e-6)
    attention = read_attention(run.folder / "attention.h5", "test")
    for case, arrays in zip(predictions.ids, predictions.instances, strict=True):
        assert arrays.keys() == attention[case].keys()
        for key, values in arrays.items():
            np.testing.assert_allclose(values, attention[case][key], rtol=1e-5, atol=1e-6, err_msg=f"{case}: {key}")


@pytest.mark.parametrize("name", RUNS)
def test_an_earlier_run_is_finished_and_not_trained_again(project, name):
    folder = project / "papermill_runs" / "old" / name
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    values = defaults_of(shipped_parameters("train")) | vars(open_run(folder).parameters)
    run_once(values, defaults_of(shipped_parameters("train")))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_earlier_runs_are_evaluated(project, run_notebook):
    done = run_notebook(
        "evaluate",
        output="evaluate.ipynb",
        run="papermill_runs/old/selection",
        cohort="cohort.csv",
        run_name="again",
        device="cpu",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = read_json(project / "papermill_runs" / "evaluations" / "again" / "metrics.json")["evaluated"]
    recorded = read_json(project / "papermill_runs" / "old" / "selection" / "metrics.json")["test"]
    assert scores["auroc"] == recorded["auroc"] and scores["brier"] == pytest.approx(recorded["brier"], rel=1e-6)


def test_earlier_runs_stand_in_the_tables_of_this_version(project):
    study = project / "papermill_runs" / "old"
    runs = collect(study, study_states(study))
    assert dict(zip(runs.run, runs.model, strict=True)) == RUNS and set(runs.state) == {"finished"}
    runs["group"], _ = group_runs(runs)
    assert len(pool(read_predictions(runs, study))) == 3
