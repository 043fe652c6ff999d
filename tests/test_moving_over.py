"""A group moves over as it is: a folder of patches, a table of classes, its own splits, in one command each."""

import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mil_workbench.data.stain_phantoms import draw_tiles, phantom_sections

CLASSES = {"benign": ("1",), "malignant": ("3", "4")}


def grades_of(sections) -> dict[str, str]:
    "Return the class of each case as the group wrote it, 1 for benign and 3 or 4 for malignant."
    labels = {section.case_id: section.label for section in sections}
    return {case: CLASSES[label][int(case) % len(CLASSES[label])] for case, label in labels.items()}


def write_patches(folder, sections) -> None:
    "Write patches into one flat folder, named as the group names them, with its oddities."
    folder.mkdir(parents=True)
    for number, section in enumerate(sections):
        _, count = section.name.split("_")
        words = ("match_", "unmatched", "unmatch_")[number % 3]
        stain = {0: "h&e-labels", 7: "sox10."}.get(number, section.stain)  # slips in names
        for i, tile in enumerate(draw_tiles(section)["instances"][:6]):
            odd = " 2" if (number, i) == (3, 0) else ""
            name = f"case_{section.case_id}_{words}{count}_{stain}_patch{i}{odd}.png"
            Image.fromarray(tile.transpose(1, 2, 0)).save(folder / name)


def write_splits(folder, grades: dict[str, str], n: int = 5) -> None:
    "Write splits as the group has them: an .npz of train, validation and test cases each, not covering every case."
    folder.mkdir()
    for k in range(n):
        parts = {"train_cases": [], "val_cases": [], "test_cases": []}
        for grade in ("benign", "malignant"):
            cases = np.random.default_rng(k).permutation(
                [int(case) for case, value in grades.items() if value in CLASSES[grade]]
            )
            parts["test_cases"] += cases[:2].tolist()
            parts["val_cases"] += cases[2:4].tolist()
            parts["train_cases"] += cases[4:-1].tolist()
        np.savez(folder / f"split_{k + 1}.npz", **{name: np.array(cases) for name, cases in parts.items()})


@pytest.fixture
def group(tmp_path):
    "What a group has after a year's work: patches, a table of classes, splits."
    sections = [each for each in phantom_sections(20, seed=5) if each.number < 1 + (each.stain == "sox10")]
    write_patches(tmp_path / "patches", sections)
    grades = grades_of(sections)
    write_splits(tmp_path / "splits", grades)
    others = {"101": "2", "102": "2", "103": "0"}  # cases of other classes; 101 has patches
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)).save(
        tmp_path / "patches" / "case_101_match_1_h&e_patch0.png"
    )
    table = pd.DataFrame([(int(case), int(value)) for case, value in (grades | others).items()])
    table.to_csv(tmp_path / "diagnoses.csv", index=False, header=["Case", "Class"])
    return tmp_path


def contents(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def workbench(folder, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mil_workbench.jobs.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_one_command_to_submit_and_one_to_report(group):
    patches, tables = contents(group / "patches"), (group / "diagnoses.csv").read_bytes()
    done = workbench(
        group,
        *("submit", "train", "--study", "moved", "--fold", "0-1", "--local", "1"),
        *("--cohort", "patches", "--labels", "diagnoses.csv", "--label-map", "1=benign; 3,4=high-grade; 0,2=-"),
        *("--folds", "splits", "--stain-map", "h&e-labels=-; sox10.=sox10"),
        *("--sections-per-stain", "1", "--patches-per-section", "6", "--patch-size", "96"),
        *("--model", "hierarchical_attention", "--hidden-features", "64", "--gated", "False"),
        *("--class-weights", "benign=2.5", "--lr-schedule", "plateau", "--plateau-patience", "4"),
        *("--plateau-factor", "0.3", "--lr", "3e-4", "--weight-decay", "2e-4", "--epochs", "3", "--patience", "2"),
        *("--warmup-epochs", "0", "--min-epochs", "2", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    runs = sorted(path.parent for path in (group / "papermill_runs/moved").glob("*/metrics.json"))
    assert len(runs) == 2
    for k, run in enumerate(runs):
        split = np.load(group / "splits" / f"split_{k + 1}.npz")
        predictions = pd.read_csv(run / "predictions.csv", dtype={"case_id": str})
        tested = predictions[predictions.set == "test"]
        assert sorted(tested.case_id.map(int)) == sorted(split["test_cases"])
        page = (run / "train.ipynb").read_text()
        assert (
            "Fixed split" in page
            and "sections_per_stain 1" in page
            and "label_map leaves out 1 case of class 2" in page
        )
    assert contents(group / "patches") == patches and (group / "diagnoses.csv").read_bytes() == tables
    report = workbench(group, "run", "crossval_report", "--study", "moved")
    assert report.returncode == 0, report.stdout[-2000:] + report.stderr[-2000:]
    page = next((group / "papermill_runs").rglob("crossval_report*.ipynb"))
    assert "fixed split" in page.read_text()
