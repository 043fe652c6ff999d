"""Any text may stand in the names of cases and classes: the run ends, and its record gives the names back."""

import csv

import numpy as np
from conftest import QUICK

from mil_workbench.files import read_json, read_written_table
from mil_workbench.training.prediction import read_attention

CASES = (
    "$_{$",
    "a_{b}^",
    "<b>bold</b>",
    "a/b",
    "a\\b",
    "..",
    "=1+1",
    "-5",
    "@x",
    "100 %s",
    'say "so", and',
    "{0}",
    "🧠 scan",
    "ملف",
    "x" * 300,
    "'tis",
    "naïve",
    "it is 9 o'clock",
)
CLASSES = ("no $\\frac{$ <script>alert(2)</script>", "=yes {x} 🧠 $_^")


def test_any_text_survives_a_run(run_notebook, tmp_path):
    rng = np.random.default_rng(0)
    with open(tmp_path / "odd.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["case_id", "patient_id", "label", "file"])
        for number, case in enumerate(CASES):
            np.save(tmp_path / f"{number}.npy", rng.normal(size=(6, 4)).astype(np.float32))
            table.writerow([case, f"p {case}", CLASSES[number % 2], f"{number}.npy"])
    done = run_notebook(**{**QUICK, "cohort": "odd.csv", "n_folds": 3, "study": "odd", "run_name": "run"})
    assert done.returncode == 0, done.stderr[-2000:]
    run = tmp_path / "papermill_runs" / "odd" / "run"
    metrics, folds = read_json(run / "metrics.json"), read_json(run / "folds.json")["folds"]
    assert metrics["positive_class"] == CLASSES[1]
    assert sorted(case for name in ("train", "validation", "test") for case in folds[0][name]) == sorted(CASES)
    predictions = read_written_table(run / "predictions.csv", ("case_id", "patient_id", "label"))
    assert set(predictions.case_id) == {*folds[0]["validation"], *folds[0]["test"]}
    assert set(predictions.label) == set(CLASSES) and (predictions.patient_id == "p " + predictions.case_id).all()
    assert set(read_attention(run / "attention.h5", "test")) == set(folds[0]["test"])
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        texts = [
            cell
            for row in csv.reader(file)
            for cell in row
            if not cell.lstrip("-").replace(".", "").replace("e", "").replace("-", "").isdigit()
        ]
    assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@"))]
