"""The report of a study: scores of many runs together, missing folds and failed runs by name, one table of all runs."""

import json
import os
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from mil_workbench.files import read_json, write_json, write_text
from mil_workbench.record.run_folder import RunFolder
from mil_workbench.record.run_parameters import write_parameters
from mil_workbench.record.runs_table import collect, write_tables
from mil_workbench.record.status import State
from mil_workbench.record.summary import summarise

PARAMETERS = {
    "cohort": "made-up",
    "n_folds": 3,
    "folds": None,
    "protocol": "train_validation_test",
    "seed": 0,
    "lr": 0.001,
    "patience": 20,
    "study": "made",
}
N_FOLDS, N_CASES = 3, 90


def write_run(
    study, model: str, fold: int, signal: float, protocol: str = "train_validation_test", **others
) -> RunFolder:
    "Write the files of a finished run; the larger `signal`, the better its predictions separate the classes."
    run = RunFolder(study / f"made-up-{model}-fold{fold}-seed0")
    rng = np.random.default_rng(fold)
    cases = pd.DataFrame({"case_id": [f"{i:03}" for i in range(N_CASES)], "label": np.arange(N_CASES) % 2})
    scores = 1 / (1 + np.exp(-(signal * (2 * cases.label - 1) + rng.normal(size=N_CASES))))
    own = cases.assign(
        patient_id=cases.case_id,
        label=cases.label.map({0: "no", 1: "yes"}),
        probability_no=1 - scores,
        probability_yes=scores,
    )
    held_out = own[np.arange(N_CASES) // 2 % N_FOLDS == fold]
    sets = (
        {"test": held_out, "validation": own[np.arange(N_CASES) // 2 % N_FOLDS == (fold + 1) % N_FOLDS]}
        if protocol == "train_validation_test"
        else {"validation": held_out}
    )
    write_parameters(run, PARAMETERS | {"model": model, "fold": fold, "protocol": protocol} | others)
    write_text(
        run / "predictions.csv", pd.concat([part.assign(set=name) for name, part in sets.items()]).to_csv(index=False)
    )
    write_json(run / "folds.json", {"folds": [{}] * N_FOLDS, "hash": f"folds of {protocol}", "cohort_hash": "made up"})
    facts = {
        "git": {"commit": "0" * 40, "dirty": False},
        "host": "q1",
        "packages": {"torch": "2.9"},
        "cohort": {"hash": "made up"},
        "folds_hash": f"folds of {protocol}",
    }
    write_json(run / "environment.json", facts)
    lines = [f"{epoch},{0.7 - 0.1 * epoch},{0.5 + 0.1 * epoch},1.5" for epoch in range(4)]
    write_text(run / "history.csv", "\n".join(["epoch,validation_cross_entropy,validation_auroc,seconds", *lines, ""]))
    scores = {
        "auroc": 0.8,
        "intervals": {"auroc": [0.7, 0.9]},
        "threshold": 0.4 + 0.1 * fold,
        "confusion": [[1, 0], [0, 1]],
    }
    write_json(
        run / "metrics.json", {"protocol": protocol, **dict.fromkeys(sets, scores), "instance": {}, "without": {}}
    )
    return run


@pytest.fixture
def project(tmp_path):
    "A folder that counts as the project, where runs are written."
    (tmp_path / "settings.ini").touch()
    return tmp_path


def printed(path) -> str:
    outputs = [out for cell in json.loads(path.read_text())["cells"] for out in cell.get("outputs", [])]
    return "\n".join(
        "".join(out.get("text", "")) + "".join(out.get("data", {}).get("text/plain", "")) for out in outputs
    )


def test_report(run_notebook, project):
    study = project / "papermill_runs" / "made"
    runs = [
        write_run(study, model, fold, signal)
        for model, signal in (("mean", 0.3), ("abmil", 1.0))
        for fold in range(N_FOLDS)
    ]
    for fold in range(N_FOLDS):
        write_run(study, "max", fold, 0.5, "train_validation")
    (runs[1] / "metrics.json").unlink()  # mean, fold 1
    write_text(runs[1] / "environment.json", '{"git": nu')
    write_json(study / "report" / "metrics.json", {"old": True})
    done = run_notebook("crossval_report", study="made")
    assert done.returncode == 0, done.stderr[-2000:]
    text = printed(project / "out.ipynb")
    kept = read_json(study / "report" / "metrics.json")

    tables = [
        pd.read_csv(run / "predictions.csv").query("set == 'test'").assign(threshold=0.4 + 0.1 * fold)
        for fold, run in enumerate(runs[3:])
    ]
    predictions = pd.concat(tables)
    pooled = roc_auc_score(predictions.label == "yes", predictions.probability_yes)
    abmil = kept["groups"]["abmil"]
    assert abmil["pooled"]["auroc"] == pytest.approx(pooled, abs=1e-12)
    assert f"{pooled:.3f} (" in text
    assert abmil["pooled"]["accuracy"] == pytest.approx(
        accuracy_score(predictions.label == "yes", predictions.probability_yes >= predictions.threshold), abs=1e-12
    )
    assert abmil["mean_over_folds"]["auroc"] == pytest.approx(
        np.mean([roc_auc_score(t.label == "yes", t.probability_yes) for t in tables]), abs=1e-12
    )
    assert "2 of 3 folds: 0, 2" in text and "environment.json cannot be read" in text
    assert "max (validation figures)" in text
    [pair] = kept["differences"]
    assert (pair["group"], pair["other"], pair["cases"]) == ("abmil", "mean", 60), (
        "compared on the cases of the folds that both have"
    )
    table = pd.read_parquet(study / "runs.parquet")
    assert len(table) == 9 and set(table.state) == {"finished", "failed"}
    assert isinstance(summarise(study / "report"), str), "what the command prints at its end"


def test_study_without_finished_runs_is_one_line_of_error(run_notebook, project):
    study = project / "papermill_runs" / "made"
    run = write_run(study, "mean", 0, 1.0)
    (run / "metrics.json").unlink()
    write_json(study / "report" / "metrics.json", {"old": True})
    done = run_notebook("crossval_report", study="made")
    assert done.returncode != 0
    assert "nothing to report, no training run has finished (1 failed)" in done.stderr.strip().splitlines()[-1]
    assert not (study / "report" / "metrics.json").exists(), "an old report is not mistaken for a new one"


def collect_many(study, n: int) -> tuple[pd.DataFrame, float]:
    "Return the table of `n` runs of sixty epochs and a first one, and the seconds it took to collect and write it."
    first = write_run(study, "mean", 0, 1.0)
    lines = ["epoch," + ",".join(f"quantity_{i}" for i in range(19)) + ",seconds"] + [
        f"{epoch}," + ",".join(["0.12345678901234567"] * 19) + ",1.5" for epoch in range(60)
    ]
    write_text(first / "history.csv", "\n".join([*lines, ""]))
    write_parameters(first, PARAMETERS | {f"parameter_{i}": 0.1 * i for i in range(50)})
    parameters = (first / "params.json").read_text()
    for i in range(n):
        (study / f"run{i}").mkdir()
        (study / f"run{i}" / "params.json").write_text(
            parameters.replace('"lr": 0.001', f'"lr": {i / 1e6:.6f}').replace(
                '"patience": 20', '"patience": null' if i % 2 else '"patience": 20'
            )
        )
        for name in ("metrics.json", "environment.json", "history.csv"):
            os.link(first / name, study / f"run{i}" / name)
    states = {path.name: State("finished") for path in study.iterdir()}
    start = time.perf_counter()
    table = collect(study, states)
    write_tables(table, study)
    return table, time.perf_counter() - start


def test_many_runs_in_one_table(tmp_path):
    table, _ = collect_many(tmp_path / "study", 200)
    assert (
        len(table) == 201
        and table.loc[table.run == "run7", "lr"].item() == 7e-6
        and set(table["history.seconds"]) == {90.0}
    )
    assert set(table.reason) == {""}


@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_five_thousand_runs_in_seconds(tmp_path):
    table, seconds = collect_many(tmp_path / "study", 5000)
    assert len(table) == 5001
    assert seconds < 10, seconds
