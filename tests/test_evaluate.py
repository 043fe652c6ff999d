"""The model of a finished run on other cases: runs/evaluate.ipynb as a user runs it, and what it refuses."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.metrics import roc_auc_score

from mil_workbench.data.named_cohorts import load_cohort
from mil_workbench.evaluation.intervals import delong_interval
from mil_workbench.files import InputError, hash_file, read_json, write_json
from mil_workbench.record.parameters import read_parameters
from mil_workbench.training.checkpoints import load_checkpoint
from mil_workbench.training.prediction import predict, read_attention
from mil_workbench.workflows import evaluate, evaluate_card, evaluate_cases, evaluate_scores
from mil_workbench.workflows.run_many import run_once

DEFAULTS = {
    notebook: {name: p.default for name, p in read_parameters(ROOT / f"nbs/runs/{notebook}.ipynb").items()}
    for notebook in ("train", "evaluate")
}
BRIEF = {"epochs": 2, "warmup_epochs": 1, "device": "cpu", "n_folds": 3}
FIGURES = {"scores", "reliability", "threshold", "subgroups"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A folder with a finished run on musk1."
    folder = tmp_path_factory.mktemp("project")
    with contextlib.chdir(folder):
        run_once(DEFAULTS["train"] | BRIEF | {"cohort": "musk1", "run_name": "fold0"}, DEFAULTS["train"])
    return folder / "papermill_runs/first/fold0"


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    "A copy of the run, which a test may change."
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained, tmp_path / "papermill_runs/first/fold0")


def write_manifest(path: Path, bags, classes, width: int | None = None) -> Path:
    "Write the features of `bags`, and beside them a manifest that names them."
    rows = []
    for bag in bags:
        np.save(path.parent / f"{path.stem}-{bag.id}.npy", bag.instances[:, :width].numpy())
        rows.append(
            (f"{path.stem}-{bag.id}", f"{path.stem}-{bag.patient_id}", classes[bag.label], f"{path.stem}-{bag.id}.npy")
        )
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file"]).to_csv(path, index=False)
    return path


def open_and_load(**given):
    "Open the run and load the cases, as the notebook does before it predicts."
    opened = evaluate.start_with(DEFAULTS["evaluate"] | {"device": "cpu", "run_name": "e"} | given)
    try:
        return opened, evaluate_cases.load(opened)
    finally:
        opened.folder.release()


def test_own_test_cases_once_more(run, run_notebook, tmp_path):
    done = run_notebook(
        "evaluate", output="papermill_runs/evaluations/own/evaluate.ipynb", run=run, device="cpu", run_name="own"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "papermill_runs/evaluations/own"
    assert {path.name for path in folder.iterdir()} == {
        "evaluate.ipynb",
        "params.json",
        "environment.json",
        "predictions.csv",
        "attention.h5",
        "figures",
        "model_card.md",
        "metrics.json",
    }
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png")
    }
    read = lambda path: pd.read_csv(path, dtype={"case_id": str}).set_index("case_id").sort_index()
    before, after = (
        read(run / "predictions.csv").query("set == 'test'").drop(columns="set"),
        read(folder / "predictions.csv"),
    )
    assert list(before.index) == list(after.index) and set(read_attention(folder / "attention.h5", "evaluated")) == set(
        after.index
    )
    np.testing.assert_allclose(after.filter(like="probability"), before.filter(like="probability"), atol=1e-6)

    metrics, trained = read_json(folder / "metrics.json"), read_json(run / "metrics.json")
    for name in ("auroc", "average_precision", "f1", "accuracy", "balanced_accuracy", "brier", "threshold"):
        assert metrics["evaluated"][name] == pytest.approx(trained["test"][name], abs=1e-6), name
    is_musk = after.label == "musk"
    assert metrics["evaluated"]["auroc"] == pytest.approx(roc_auc_score(is_musk, after.probability_musk))
    delong = delong_interval(is_musk.to_numpy(), after.probability_musk.to_numpy())
    assert metrics["delong"] == pytest.approx([delong.value, delong.low, delong.high])
    assert metrics["threshold_transfer"]["1"]["threshold"] == pytest.approx(
        trained["validation"]["threshold"], abs=1e-9
    )
    assert metrics["localisation"] is None

    cells = json.loads((folder / "evaluate.ipynb").read_text())["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == len(FIGURES)
    assert not any("Warning" in "".join(out.get("text", "")) for out in outputs)
    card = (folder / "model_card.md").read_text()
    assert card in ["".join(out["data"]["text/markdown"]) for out in outputs if "text/markdown" in out.get("data", {})]
    assert hash_file(run / "checkpoints/best.safetensors") in card and "no medical device" in card
    assert str(tmp_path) not in card and "musk1-0" not in card, "neither paths nor patients"


def test_external_manifest(run, run_notebook, tmp_path):
    musk = load_cohort("musk1")
    write_manifest(tmp_path / "abroad.csv", musk.bags[::3], musk.classes)
    done = run_notebook("evaluate", run=run, cohort="abroad.csv", device="cpu", run_name="abroad")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "papermill_runs/evaluations/abroad"
    predictions = predict(load_checkpoint(run / "checkpoints/best.safetensors")[0], musk.bags[::3])
    table = pd.read_csv(folder / "predictions.csv").set_index("case_id")
    np.testing.assert_allclose(
        table.loc[[f"abroad-{name}" for name in predictions.ids], "probability_musk"],
        predictions.probabilities[:, 1],
        atol=1e-6,
    )
    metrics = read_json(folder / "metrics.json")
    assert (metrics["cases"], metrics["what"], metrics["shared_patients"]) == (31, "all cases of abroad", 0)
    assert "from the training cohort: no" in (folder / "model_card.md").read_text()


def test_command_line_and_a_training_run_s_folder(run, tmp_path):
    command = [sys.executable, "-m", "mil_workbench.jobs.cli", "run", "evaluate", "--run", str(run), "--device", "cpu"]
    refused = subprocess.run(
        [*command, "--study", "first", "--run-name", "fold0"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (
        refused.returncode == 2
        and "first/fold0: is the folder of a training run; give another run_name" in refused.stderr
    )
    assert (run / "metrics.json").exists(), "the run is unchanged"
    misspelt = subprocess.run([*command, "--chorot", "musk1"], cwd=tmp_path, capture_output=True, text=True)
    assert misspelt.returncode == 2 and "there is no parameter 'chorot'; did you mean cohort?" in misspelt.stderr
    done = subprocess.run(
        [*command, "--cases", "validation", "--run-name", "validation"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "evaluated:" in done.stdout and "auroc" in done.stdout
    assert (
        "These are validation figures" in (tmp_path / "papermill_runs/evaluations/validation/model_card.md").read_text()
    )


def test_one_class_is_still_evaluated(run, tmp_path):
    musk = load_cohort("musk1")
    write_manifest(tmp_path / "one.csv", [bag for bag in musk.bags if bag.label][:12], musk.classes)
    opened, cases = open_and_load(run=str(run), cohort="one.csv")
    opened.folder.claim()
    results = evaluate_scores.score_cases(opened, cases)
    assert results.scores["auroc"].value is None and results.scores["accuracy"].value is not None
    assert (
        results.transfer.reason
        == "The cases are all of class musk: how the threshold serves both classes cannot be seen."
    )
    assert set(evaluate_scores.write_figures(opened, cases, results=results)) == {"reliability", "subgroups"}
    card = evaluate_card.model_card(opened, cases, results=results)
    assert "not defined" in card and "No evaluated case is of class non-musk." in card
    evaluate_card.finish(opened, cases, results=results)


def test_three_classes_have_no_threshold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), []
    for p in range(36):
        np.save(tmp_path / f"p{p}.npy", rng.normal(size=(rng.integers(3, 9), 8)) + np.eye(8)[p % 3] * 3)
        rows.append((f"case{p}", f"p{p}", ("dysplastic", "melanoma", "naevus")[p % 3], f"p{p}.npy"))
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file"]).to_csv("three.csv", index=False)
    folder = run_once(
        DEFAULTS["train"] | BRIEF | {"cohort": "three.csv", "run_name": "three", "protocol": "train_validation"},
        DEFAULTS["train"],
    )
    with pytest.raises(
        InputError,
        match="fold 0: has no test cases, its protocol is train_validation; "
        "give cases validation, whose figures are validation figures",
    ):
        open_and_load(run=str(folder.path))
    opened, cases = open_and_load(run=str(folder.path), cases="validation")
    assert cases.is_validation
    opened.folder.claim()
    results = evaluate_scores.score_cases(opened, cases)
    assert results.delong.reason == "for two classes only"
    for part in (results.transfer, results.subgroups):
        assert part.reason.endswith("is defined for two classes only, and the model has 3.")
    assert set(evaluate_scores.write_figures(opened, cases, results=results)) == {"scores", "reliability"}
    evaluate_card.write_card(opened, cases, results=results)
    evaluate_card.finish(opened, cases, results=results)
    assert read_json(opened.folder / "metrics.json")["subgroups"] is None


def test_patients_shared_with_training_are_named(run, tmp_path, capsys):
    musk = load_cohort("musk1")
    new = write_manifest(tmp_path / "more.csv", musk.bags[:20], musk.classes)
    table = pd.read_csv(new)
    known = read_json(run / "folds.json")["folds"][0]["train"][0]
    table.loc[0, "patient_id"] = known
    table.to_csv(new, index=False)
    opened, cases = open_and_load(run=str(run), cohort="more.csv")
    assert cases.shared == {known} and f"was trained or chosen: {known}." in capsys.readouterr().out
    results = evaluate_scores.score_cases(*claimed(opened, cases))
    card = evaluate_card.model_card(opened, cases, results=results)
    assert "1 of the evaluated patients has the same name as one" in card and known not in card
    opened.folder.release()


def claimed(opened, cases):
    opened.folder.claim()
    return opened, cases


def damage(run, path):
    (run / path).write_bytes((run / path).read_bytes()[:200])


@pytest.mark.parametrize(
    "spoil, given, message",
    [
        (
            lambda run: None,
            {"run": "papermill_runs/first/fold1"},
            "first/fold1: there is no such folder; give that of a finished training run",
        ),
        (lambda run: (run / "metrics.json").unlink(), {}, "first/fold0 has not finished: "),
        (
            lambda run: (run / "checkpoints/best.safetensors").unlink(),
            {},
            "best.safetensors: no such checkpoint; copy the run's folder again",
        ),
        (
            lambda run: damage(run, "checkpoints/best.safetensors"),
            {},
            "best.safetensors: is not a checkpoint of this workbench",
        ),
        (
            lambda run: None,
            {"cohort": "digits"},
            "cohort digits: has the classes no 9, holds a 9, but model first/fold0 has the classes non-musk, musk",
        ),
        (lambda run: None, {"cohort": "narrow.csv"}, "the model reads features 166 wide, the cohort's are 100 wide"),
        (
            lambda run: None,
            {"cohort": "named.csv"},
            "named.csv: has the labels no, yes, but the model tells non-musk, musk apart",
        ),
        (
            lambda run: None,
            {"fold": 1},
            "are among those on whom first/fold0 was trained or chosen; leave cases, folds and fold out",
        ),
        (lambda run: None, {"cohort": "gone.csv"}, "gone.csv: no such file"),
    ],
    ids=[
        "no run",
        "not finished",
        "no weights",
        "damaged weights",
        "other classes",
        "other width",
        "other names",
        "leak",
        "no manifest",
    ],
)
def test_bad_input_is_one_line(run, tmp_path, spoil, given, message):
    musk = load_cohort("musk1")
    write_manifest(tmp_path / "narrow.csv", musk.bags[:6] + musk.bags[-6:], musk.classes, width=100)
    write_manifest(tmp_path / "named.csv", musk.bags[:6] + musk.bags[-6:], ("no", "yes"))
    spoil(run)
    with pytest.raises(InputError) as error:
        open_and_load(**{"run": str(run)} | given)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "papermill_runs/evaluations/e/params.json").exists(), "nothing has begun"


def write_patches(folder: Path) -> None:
    "Write noise as the patches of twelve cases; every third lacks a stain."
    rng = np.random.default_rng(0)
    folder.mkdir()
    for case in range(12):
        for stain in ("h&e", "sox10")[: 1 if case % 3 == 0 else 2]:
            for patch in range(2):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
                    folder / f"case_{case}_match_1_{stain}_patch{patch}.png"
                )
    pd.DataFrame({"case_id": range(12), "label": ["benign", "malignant"] * 6}).to_csv(
        folder / "labels.csv", index=False
    )


def test_images_and_their_encoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_patches(tmp_path / "lab")
    write_patches(tmp_path / "abroad")
    options = {
        "cohort": "lab",
        "patch_size": 32,
        "model": "hierarchical_attention",
        "run_name": "patches",
        "n_folds": 2,
    }
    folder = run_once(DEFAULTS["train"] | BRIEF | options, DEFAULTS["train"])
    opened, cases = open_and_load(run=str(folder.path), cohort="abroad", cases=None)
    assert (cases.is_own, opened.run.channels) == (True, ("red", "green", "blue")), (
        "the same cases, patients and labels are the run's own"
    )
    results = evaluate_scores.score_cases(*claimed(opened, cases))
    assert results.subgroups.value.loc["sox10 missing", "n"] == sum(int(bag.id) % 3 == 0 for bag in cases.bags)
    opened.folder.release()
    facts = read_json(folder / "model.json")
    for spoilt, message in [
        (
            {"frozen_encoder": facts["frozen_encoder"] | {"weights_hash": "0" * 64}},
            "model.json: the model learned from features of efficientnet_lite0 with weights 00000000, "
            "but the encoder here is efficientnet_lite0 with weights",
        ),
        (
            {"frozen_encoder": facts["frozen_encoder"] | {"in_channels": 2}, "channels": ["t1", "flair"]},
            "the model reads images of 2 channels (t1, flair), the cohort's have 3 (red, green, blue); "
            "give the same channels",
        ),
        (
            {"channels": ["blue", "green", "red"]},
            "the model reads the channels blue, green, red, the cohort's are red, green, blue",
        ),
    ]:
        write_json(folder / "model.json", facts | spoilt)
        with pytest.raises(InputError, match=re.escape(message)):
            open_and_load(run=str(folder.path))


def test_fold_of_another_cohort(run, tmp_path):
    musk = load_cohort("musk1")
    table = pd.read_csv(write_manifest(tmp_path / "abroad.csv", musk.bags[::3], musk.classes))
    pd.DataFrame({"patient_id": table.patient_id, "fold": np.arange(len(table)) % 3}).to_csv("folds.csv", index=False)
    opened, cases = open_and_load(run=str(run), cohort="abroad.csv", folds="folds.csv", fold=1)
    assert sorted(bag.patient_id for bag in cases.bags) == sorted(table.patient_id[1::3])
    with pytest.raises(InputError, match="folds.csv: which of them is evaluated"):
        open_and_load(run=str(run), cohort="abroad.csv", folds="folds.csv")


def test_encoder_trained_with_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_patches(tmp_path / "lab")
    options = {
        "cohort": "lab",
        "patch_size": 32,
        "model": "abmil",
        "train_encoder": True,
        "encoder": "resnet18",
        "encoder_weights": "none",
        "run_name": "along",
        "n_folds": 2,
    }
    folder = run_once(DEFAULTS["train"] | BRIEF | options, DEFAULTS["train"])
    opened, cases = open_and_load(run=str(folder.path))
    results = evaluate_scores.score_cases(*claimed(opened, cases))
    assert results.scores["auroc"].value == pytest.approx(read_json(folder / "metrics.json")["test"]["auroc"])
    assert "encoder: resnet18, trained with the model" in evaluate_card.model_card(opened, cases, results=results)
    opened.folder.release()
