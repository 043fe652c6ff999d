"""The main job as a user runs it: papermill on runs/train.ipynb, with what goes right and what goes wrong."""

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import QUICK, ROOT, papermill_command, wait_until

from mil_workbench.files import read_json
from mil_workbench.training.checkpoints import load_checkpoint
from mil_workbench.training.prediction import read_attention


def test_train_on_digits_leaves_a_whole_record(run_notebook, tmp_path):
    output = "papermill_runs/first/run/train.ipynb"
    done = run_notebook(output=output, **QUICK, study="first", run_name="run")
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "papermill_runs/first/run"
    assert {path.name for path in run.iterdir()} == {
        "train.ipynb",
        "params.json",
        "model.json",
        "folds.json",
        "history.csv",
        "predictions.csv",
        "yardsticks.csv",
        "attention.h5",
        "checkpoints",
        "environment.json",
        "metrics.json",
    }
    executed = json.loads((tmp_path / output).read_text())["cells"]
    figures = [out for cell in executed for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(figures) == 4
    assert not any("Warning" in "".join(out.get("text", "")) for cell in executed for out in cell.get("outputs", []))

    metrics, predictions = read_json(run / "metrics.json"), pd.read_csv(run / "predictions.csv")
    test = predictions[predictions.set == "test"]
    folds = read_json(run / "folds.json")["folds"][0]
    assert sorted(test.case_id) == sorted(folds["test"])
    from sklearn.metrics import roc_auc_score

    assert metrics["test"]["auroc"] == pytest.approx(
        roc_auc_score(test.label == "holds a 9", test["probability_holds a 9"])
    )
    model, facts = load_checkpoint(run / "checkpoints/best.safetensors")
    assert model.description == read_json(run / "model.json")["description"]
    attention = read_attention(run / "attention.h5", "test")
    assert sorted(attention) == sorted(test.case_id)
    assert all(np.isclose(case["selection"].sum(), 1, atol=1e-5) for case in attention.values())
    assert set(read_attention(run / "attention.h5", f"epoch_{facts['epoch']}")) == set(folds["validation"])


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"flod": 1}, "there is no parameter 'flod'; did you mean fold?"),
        pytest.param(
            {"run_name": "007"},
            "papermill reads digits as a number, give it with -r run_name 7",
            marks=pytest.mark.slow,  # the chapter record/parameters has the message; here it is what papermill shows
        ),
        pytest.param(
            {"n_folds": 40, "cohort": "ucsb-breast"},
            "class malignant of ucsb-breast has 26 patients, too few for every set of every fold to have one; "
            "n_folds 26 works",
            marks=pytest.mark.slow,  # the chapter data/splits has the message
        ),
        ({"critical_selection_mode": "hard"}, "no gradient reaches selector.scorer"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_plain_papermill_refuses(run_notebook, tmp_path, parameters, message):
    done = run_notebook(**{**QUICK, **parameters})
    assert done.returncode != 0
    assert message in done.stderr.strip().splitlines()[-1]
    assert not list(tmp_path.glob("papermill_runs/*/*/metrics.json"))
    assert not list(tmp_path.glob("papermill_runs/*/*/checkpoints"))


def test_second_writer_is_refused_and_harms_nothing(run_notebook, tmp_path):
    options = {**QUICK, "epochs": 10_000, "study": "shared", "run_name": "run"}
    first = subprocess.Popen(
        papermill_command("train", tmp_path / "first.ipynb", tmp_path, **options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    history = tmp_path / "papermill_runs/shared/run/history.csv"
    wait_until(history.exists, first)
    second = run_notebook(output="second.ipynb", **options)
    first_alive = first.poll() is None
    for member in [*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)]:
        member.kill()
    first.wait()
    assert first_alive and second.returncode != 0
    assert "another process is writing here (host" in second.stderr.strip().splitlines()[-1]
    assert len(pd.read_csv(history)) >= 1


def test_manifest_with_several_files_per_case_and_own_folds(run_notebook, tmp_path):
    rng = np.random.default_rng(0)
    rows, folds = [], []
    for p in range(30):
        folds.append((f"00{p}", p % 3))
        for part in range(2):
            np.save(tmp_path / f"p{p}_{part}.npy", rng.normal(size=(5, 8)) + 2 * (p % 2))
            rows.append((f"case{p}", f"00{p}", ("benign", "malignant")[p % 2], f"p{p}_{part}.npy"))
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file"]).to_csv(tmp_path / "trial.csv", index=False)
    pd.DataFrame(folds, columns=["patient_id", "fold"]).to_csv(tmp_path / "folds.csv", index=False)
    options = {
        **QUICK,
        "cohort": "trial.csv",
        "folds": "folds.csv",
        "fold": 2,
        "study": "trial",
        "run_name": "run",
        "model": "gated_abmil",
    }
    done = run_notebook(**options)
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "papermill_runs/trial/run"
    assert sorted(read_json(run / "folds.json")["folds"][2]["test"]) == sorted(
        f"case{p}" for p in range(30) if p % 3 == 2
    )
    assert read_json(run / "metrics.json")["test"]["auroc"] > 0.9

    np.save(tmp_path / "p7_1.npy", np.full((5, 8), np.nan))
    done = run_notebook(**{**options, "run_name": "without"})
    assert done.returncode == 0, done.stderr[-2000:]
    without = tmp_path / "papermill_runs/trial/without"
    assert read_json(without / "environment.json")["cohort"]["note"] == "1 of 60 files is left out."
    assert read_json(without / "folds.json")["folds"] == read_json(run / "folds.json")["folds"]


def test_presets_run(run_notebook, tmp_path):
    for preset in ("seed_start", "seed_fix"):
        done = run_notebook(
            preset=preset,
            cohort="digits",
            epochs=2,
            batch_size=40,
            two_phase_epoch=None,
            device="cpu",
            study="presets",
            run_name=preset,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    histories = {
        name: pd.read_csv(tmp_path / f"papermill_runs/presets/{name}/history.csv")
        for name in ("seed_start", "seed_fix")
    }
    assert histories["seed_start"].selection_largest.eq(1).all()
    assert histories["seed_fix"].selection_largest.max() < 0.042  # e / (e + 63): all that a sigmoid allows


@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_notebook_costs_little_more_than_a_script(run_notebook, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from mil_workbench.workflows import train, train_figures, train_model, train_scores\n"
        "from mil_workbench.record.parameters import defaults_of, read_parameters\n"
        f"defaults = defaults_of(read_parameters({str(ROOT / 'nbs/runs/train.ipynb')!r}))\n"
        f"run = train.start_with({{**defaults, **{QUICK!r}, 'run_name': 'script'}}, defaults)\n"
        "cohort = train.load(run)\nsets = train.split(run, cohort)\nmodel = train_model.build(run, cohort, sets)\n"
        "loss = train_model.build_loss(run, cohort, sets)\ntrain_model.audit(run, model, loss, sets)\n"
        "history = train.fit(run, model, loss, sets)\nresults = train_scores.score_run(run, cohort, model, sets)\n"
        "shown = [train_figures.plot_sets(sets, cohort.classes), train_figures.plot_training(run, history)]\n"
        "shown += [train_figures.plot_results(run, cohort, results)]\n"
        "shown += [train_figures.plot_attention(cohort, results, sets)]\n"
        "for figure in shown:\n"
        "    figure.savefig('figure.png')\n"
        "train.finish(run, results.metrics)\n"
    )
    seconds = []
    for i in range(2):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, script],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            env={**os.environ, "MPLBACKEND": "agg"},
        )
        middle = time.perf_counter()
        assert run_notebook(**QUICK, run_name=f"notebook{i}").returncode == 0
        seconds.append((middle - start, time.perf_counter() - middle))
        shutil.rmtree(tmp_path / "papermill_runs")
    by_script, by_notebook = map(min, zip(*seconds))
    print(f"script {by_script:.1f} s, notebook {by_notebook:.1f} s")
    assert by_notebook - by_script < 5


def test_three_classes(run_notebook, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for p in range(36):
        np.save(tmp_path / f"p{p}.npy", rng.normal(size=(rng.integers(3, 9), 8)) + np.eye(8)[p % 3] * 3)
        rows.append((f"case{p}", f"p{p}", ("dysplastic", "melanoma", "naevus")[p % 3], f"p{p}.npy"))
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file"]).to_csv(tmp_path / "three.csv", index=False)
    done = run_notebook(
        **{**QUICK, "epochs": 8, "cohort": "three.csv", "n_folds": 3, "study": "three", "run_name": "run"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = read_json(tmp_path / "papermill_runs/three/run/metrics.json")
    assert metrics["test"]["auroc"] > 0.9 and metrics["test"]["threshold"] is None
    assert np.shape(metrics["test"]["confusion"]) == (3, 3)


def test_what_was_learned_from_noise_says_that_it_is_nothing(run_notebook, tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for p in range(36):
        np.save(tmp_path / f"p{p}.npy", rng.normal(size=(4, 64)).astype(np.float32))
        rows.append((f"case{p}", f"patient{p}", ("control", "cancer")[p % 2], f"p{p}.npy"))
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file"]).to_csv(tmp_path / "noise.csv", index=False)
    overfit = {
        "cohort": "noise.csv",
        "n_folds": 3,
        "epochs": 8,
        "warmup_epochs": 0,
        "lr": 3e-2,
        "label_smoothing": 0.0,
        "model": "mean",
        "dropout": 0.0,
        "grad_clip": 5.0,
        "batch_size": 4,
        "device": "cpu",
    }
    done = run_notebook(**overfit, study="noise", run_name="run")
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = read_json(tmp_path / "papermill_runs/noise/run/metrics.json")
    assert metrics["constant"]["better"] is False and metrics["positive_class"] == "cancer"
    assert (
        metrics["constant"]["kept_cross_entropy"]
        > metrics["constant"]["validation_cross_entropy"]
        == pytest.approx(np.log(2))
    )
    printed = "".join(
        "".join(out.get("text", ""))
        for cell in json.loads((tmp_path / "out.ipynb").read_text())["cells"]
        for out in cell.get("outputs", [])
    )
    for sentence in (
        "positive class: cancer",
        "This run has learned nothing that holds on validation",
        "Too few cases for a threshold to mean anything",
    ):
        assert sentence in printed
    status = subprocess.run(
        [sys.executable, "-m", "mil_workbench.jobs.cli", "status", "noise"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "no better on validation than always giving the classes' frequencies" in status.stdout, status.stderr
