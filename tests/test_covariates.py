"""Age, sex and site beside the bag: models that take them, runs on a user's table, evaluations of other cases."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from sklearn.linear_model import LogisticRegression

from mil_workbench.data.bags import Bag, pack, stain_levels
from mil_workbench.files import InputError, read_json
from mil_workbench.models.build import build_model
from mil_workbench.record.parameters import read_parameters
from mil_workbench.record.rules import MODEL_NAMES, TAKING_COVARIATES, check
from mil_workbench.workflows import evaluate, evaluate_card, evaluate_cases, evaluate_scores
from mil_workbench.workflows.finished import open_run
from mil_workbench.workflows.run_many import run_once

DEFAULTS = {
    notebook: {name: p.default for name, p in read_parameters(ROOT / f"nbs/runs/{notebook}.ipynb").items()}
    for notebook in ("train", "evaluate")
}
BRIEF = {"epochs": 20, "warmup_epochs": 2, "lr": 0.01, "device": "cpu", "n_folds": 4, "patience": None}
N_CASES = 120


def write_cohort(folder: Path, seed: int = 0, n_cases: int = N_CASES, **columns) -> Path:
    "Write features that are noise, and a manifest whose age and sex, not the features, tell the classes apart."
    folder.mkdir()
    rng, rows = np.random.default_rng(seed), []
    for i in range(n_cases):
        np.save(folder / f"{i}.npy", rng.normal(size=(5, 6)).astype(np.float32))
        label = i % 2
        rows.append((f"c{i}", f"p{i // 2 * 2 + i % 2}", ("benign", "malignant")[label], f"{i}.npy"))
    table = pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file"])
    malignant = table.label == "malignant"
    table["age"] = (50 + 20 * malignant + rng.normal(0, 6, n_cases)).round(1).astype(str)
    table["sex"] = np.where(rng.random(n_cases) < 0.3 + 0.4 * malignant, "m", "F")
    table.loc[::9, "age"] = "NA"
    table.assign(**columns).to_csv(folder / "cases.csv", index=False)
    return folder / "cases.csv"


def train(**given):
    return run_once(DEFAULTS["train"] | BRIEF | given, DEFAULTS["train"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A folder with a cohort, and runs with covariates and without."
    folder = tmp_path_factory.mktemp("project")
    (folder / "settings.ini").touch()
    with contextlib.chdir(folder):
        write_cohort(folder / "cohort")
        cohort = "cohort/cases.csv"
        train(cohort=cohort, covariates="age, sex", run_name="with")
        train(cohort=cohort, run_name="without")
    return folder


@pytest.fixture
def project(trained, tmp_path, monkeypatch):
    "A copy of it, which a test may change."
    monkeypatch.chdir(shutil.copytree(trained, tmp_path, dirs_exist_ok=True))
    return tmp_path


def some_bags(name: str) -> list[Bag]:
    generator = torch.Generator().manual_seed(0)
    bags = [
        Bag(
            f"c{i}",
            patient_id=f"c{i}",
            label=i % 2,
            instances=torch.randn(n, 8, generator=generator),
            covariates=torch.randn(3, generator=generator),
        )
        for i, n in enumerate((3, 40, 4))
    ]
    if name != "hierarchical_attention":
        return bags
    return [replace(bag, levels=stain_levels([("a", "1", 1), ("b", "2", len(bag) - 1)])) for bag in bags]


@pytest.mark.parametrize("name", TAKING_COVARIATES)
def test_covariates_stand_behind_the_embedding_of_the_bag(name):
    options = {"levels": ["section", "stain", "case"]} if name == "hierarchical_attention" else {}
    bags = some_bags(name)
    torch.manual_seed(0)
    model = build_model(name, in_features=8, n_classes=2, n_covariates=3, **options).eval()
    torch.manual_seed(0)
    plain = build_model(name, in_features=8, n_classes=2, **options).eval()
    taken = {}
    for each in (model, plain):
        each.classifier.register_forward_hook(lambda _, inputs, output, each=each: taken.update({each: inputs[0]}))
    together = model(pack(bags))
    width = taken[model].shape[1] - 3
    torch.testing.assert_close(taken[model][:, -3:], torch.stack([bag.covariates for bag in bags]) * width**0.5)
    torch.testing.assert_close(together.logits[1], model(pack([bags[1]])).logits[0])
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "classifier" not in k}, strict=False)
    plain(pack(bags))
    torch.testing.assert_close(taken[plain], model_input_without(model, bags, taken))
    with pytest.raises(InputError, match="takes 3 covariates and the case has none; encode it first"):
        model(pack([replace(bag, covariates=None) for bag in bags]))
    assert "n_covariates" not in plain.description
    torch.testing.assert_close(build_again(model)(pack(bags)).logits, together.logits)


def model_input_without(model, bags, taken):
    "What reaches the classifier before the covariates."
    model(pack(bags))
    return taken[model][:, :-3]


def build_again(model):
    again = build_model(**model.description).eval()
    again.load_state_dict(model.state_dict())
    return again


def test_other_models_refuse_covariates():
    for name in (*sorted(set(MODEL_NAMES) - set(TAKING_COVARIATES)), "package.module:Class", "torchmil:ABMIL"):
        with pytest.raises(InputError, match=f"covariates age has no effect on model {name}"):
            check(DEFAULTS["train"] | {"model": name, "covariates": "age"}, DEFAULTS["train"])


def test_a_run_learns_from_covariates(project):
    run, without = (open_run(f"papermill_runs/first/{name}") for name in ("with", "without"))
    metrics, before = (read_json(each.folder / "metrics.json") for each in (run, without))
    assert metrics["test"]["auroc"] > 0.85 > 0.75 > before["test"]["auroc"], "the features are noise"
    assert set(metrics["yardsticks"]) == {*before["yardsticks"], "covariates alone"}
    assert metrics["yardsticks"]["covariates alone"]["test"]["auroc"] > 0.85
    for name in before["yardsticks"]:
        assert metrics["yardsticks"][name] == before["yardsticks"][name], "the others are as they were"
    assert without.covariates is None and "n_covariates" not in without.model.description
    assert run.covariates.names == ["age", "age missing", "sex: F", "sex: m"]
    table = pd.read_csv("cohort/cases.csv", index_col="case_id")
    folds = read_json(run.folder / "folds.json")
    known = table.loc[folds["folds"][0]["train"]].dropna()
    weights = 1 / known.groupby("patient_id").age.transform("size")
    mean = np.average(known.age, weights=weights)
    assert run.covariates.columns[0].mean == pytest.approx(mean), "each training patient counts once"
    deviation = np.average((known.age - mean) ** 2, weights=weights) ** 0.5
    bag = run.bag("c1")
    expected = [(table.age["c1"] - mean) / deviation, 0, float(table.sex["c1"] == "F"), float(table.sex["c1"] == "m")]
    assert bag.covariates.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_yardstick_is_logistic_regression_on_covariates(project):
    run = open_run("papermill_runs/first/with")
    folds = read_json(run.folder / "folds.json")["folds"][0]
    rows = {name: np.stack([run.bag(case).covariates.numpy() for case in cases]) for name, cases in folds.items()}
    labels = {name: [run.bag(case).label for case in cases] for name, cases in folds.items()}
    written = pd.read_csv(run.folder / "yardsticks.csv")
    own = written[(written.yardstick == "covariates alone") & (written.set == "test")].set_index("case_id")
    mean, deviation = rows["train"].mean(0), rows["train"].std(0)
    candidates = []
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        classifier = LogisticRegression(C=strength).fit((rows["train"] - mean) / deviation, labels["train"])
        candidates.append(classifier.predict_proba((rows["test"] - mean) / deviation)[:, 1])
    found = own.probability_malignant.loc[folds["test"]].to_numpy()
    assert min(np.abs(found - each).max() for each in candidates) < 1e-3


def evaluated(**given) -> tuple[dict, str]:
    "Evaluate and write the card; return the facts and the card."
    opened = evaluate.start_with(DEFAULTS["evaluate"] | {"device": "cpu", "run": "papermill_runs/first/with"} | given)
    cases = evaluate_cases.load(opened)
    results = evaluate_scores.score_cases(opened, cases)
    evaluate_card.write_card(opened, cases, results)
    evaluate_card.finish(opened, cases, results)
    return evaluate.describe_model(opened), (opened.folder.path / "model_card.md").read_text()


def test_evaluation_of_own_and_other_cases(project, capsys):
    facts, card = evaluated(run_name="own")
    before = pd.read_csv("papermill_runs/first/with/predictions.csv").set_index("case_id").probability_malignant
    after = pd.read_csv("papermill_runs/evaluations/own/predictions.csv").set_index("case_id").probability_malignant
    assert after.to_dict() == pytest.approx(before[after.index].to_dict(), abs=1e-6)
    assert facts["covariates"].startswith("age (a number, mean ") and facts["covariates"].endswith("sex (F, m)")
    assert "| covariates alone |" in card and facts["covariates"] in card
    others = write_cohort(project / "others", seed=1, n_cases=30)
    table = pd.read_csv(others, dtype=str).rename(columns={"age": "Age", "sex": "SEX"})
    table.loc[3, "SEX"], table.loc[5, "Age"] = "diverse", ""
    table.to_csv(others, index=False)
    _, card = evaluated(run_name="others", cohort=str(others))
    n_missing = int(table.Age.fillna("NA").isin(["", "NA"]).sum())
    for sentence in (
        f"Age is missing for {n_missing} of 30 evaluated cases.",
        "SEX is in no category of training (diverse), which counts as none, for 1 of 30 evaluated cases.",
    ):
        assert sentence in card and sentence in capsys.readouterr().out + card
    table.drop(columns="Age").to_csv(others, index=False)
    with pytest.raises(InputError, match="cohort cases has no column age; its further columns are SEX"):
        evaluated(run_name="lacking", cohort=str(others))


def test_report_shows_covariates_alone(project, run_notebook):
    cohort = "cohort/cases.csv"
    train(cohort=cohort, covariates="age", model="mean", run_name="age")
    done = run_notebook("crossval_report", study="first", run_name="report")
    assert done.returncode == 0, done.stderr[-2000:]
    text = json.dumps(read_json(project / "papermill_runs/first/report/metrics.json"))
    assert "covariates alone (age, sex)" in text and "covariates alone (age)" in text


def altered(column: str, **values: str):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        for case, value in values.items():
            table.loc[table.case_id == case, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "covariates", "message"),
    [
        (altered("age", c3=">89"), "age", "column age has '>89' for case c3, and the number .* write age=number"),
        (lambda table: table, "age, weight", "has no column weight; its further columns are sex, age"),
        (lambda table: table, "age, Age", "names Age twice"),
        (lambda table: table, "age;sex", "has no column age;sex"),
        (lambda table: table, "", "names no column"),
        (lambda table: table.assign(site="A"), "site", "no two training cases differ in them"),
        (lambda table: table.assign(name=table.case_id), "name", "has .* categories among .* too many to learn from"),
        (lambda table: table.assign(age=""), "age", "has no column age"),
    ],
)
def test_bad_covariates_are_one_line(project, change, covariates, message):
    path = project / "cohort/cases.csv"
    change(pd.read_csv(path, dtype=str)).to_csv(path, index=False)
    with pytest.raises(InputError, match=message) as raised:
        train(cohort=str(path), covariates=covariates, run_name="bad")
    assert "\n" not in str(raised.value)


def test_what_is_no_number_may_count_as_missing_and_codes_as_categories(project, capsys):
    path = project / "cohort/cases.csv"
    table = pd.read_csv(path, dtype=str)
    table = altered("age", c3=">89")(table).assign(site=[str(i % 3) for i in range(N_CASES)], ward="A")
    table.to_csv(path, index=False)
    for model in ("hierarchical_attention", "gated_abmil"):
        folder = train(
            cohort=str(path), covariates="age=number, site=category, ward", model=model, run_name=model, epochs=2,
            warmup_epochs=1, members=2 if model == "gated_abmil" else 1,
        )  # fmt: skip
        assert open_run(folder.path).covariates.names == ["age", "age missing", "site: 0", "site: 1", "site: 2"]
    out = capsys.readouterr().out
    assert "ward is left out, since no two training cases differ in it" in out
    assert "covariates: age (a number, mean " in out and "site (0, 1, 2)" in out
    assert "age is missing for " in out


def test_a_changed_table_does_not_resume_a_run(project):
    path = project / "cohort/cases.csv"
    (project / "papermill_runs/first/with/metrics.json").unlink()
    table = pd.read_csv(path, dtype=str)
    table.assign(age="1" + table.age.fillna("")).to_csv(path, index=False)
    with pytest.raises(InputError, match="began with other covariates of its training cases"):
        train(cohort="cohort/cases.csv", covariates="age, sex", run_name="with")
