"""Labels as a group has them: a table of any form beside files that nobody edits."""

import os
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from PIL import Image

from mil_workbench.data.label_columns import LabelSettings
from mil_workbench.data.named_cohorts import load_cohort
from mil_workbench.data.patches import PatchSettings
from mil_workbench.files import InputError, read_json

N_CASES = 25
CLASS_OF = {case: case % 5 for case in range(1, N_CASES + 1)}  # 0 to 4, five cases each
MAP = "1=benign; 3,4=high-grade; 0,2=-"
STAIN_MAP = "h&e-labels=-; sox10.=sox10"


def write_patch(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Image.fromarray((rng.normal([150, 60, 150], 25, (32, 32, 3)).clip(0, 255)).astype(np.uint8)).save(path)


def write_folder(folder: Path) -> None:
    "Write patches of 25 cases, in a flat folder named as the first group has them, oddities included."
    folder.mkdir()
    for case in range(1, N_CASES + 1):
        for stain in ("h&e", "melan", "sox10"):
            if stain == "melan" and case % 4 == 0:
                continue
            section = f"match_{case % 3 + 1}" if case % 2 else f"unmatched{case % 3 + 1}"
            for patch in range(2):
                write_patch(folder / f"case_{case}_{section}_{stain}_patch{patch}.png", seed=100 * case + patch)
    write_patch(folder / "case_3_match_1_h&e-labels_patch0.png", seed=1)
    write_patch(folder / "case_4_match_1_sox10._patch0.png", seed=2)
    write_patch(folder / "case_6_unmatched1_h&e_patch12 2.png", seed=3)
    write_patch(folder / "case_99_match_1_h&e_patch0.png", seed=4)


def write_table(path: Path) -> None:
    "Write the classes of the cases, two that have no files, and what else is known of them."
    rows = [(case, CLASS_OF[case], "fm"[case % 2], 40 + case) for case in range(1, N_CASES + 1)]
    table = pd.DataFrame([*rows, (50, 1, "f", 60), (51, 3, "m", 61)], columns=["Case", "Class", "sex", "age"])
    if path.suffix == ".xlsx":
        with pd.ExcelWriter(path) as writer:
            pd.DataFrame({"written by": ["me"]}).to_excel(writer, sheet_name="About", index=False)
            table.to_excel(writer, sheet_name="Cases", index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def printed(path: Path) -> str:
    outputs = [out for cell in read_json(path)["cells"] for out in cell.get("outputs", [])]
    return "\n".join("".join(out.get("text", "")) for out in outputs)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    (tmp_path / "settings.ini").touch()
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "patches")
    write_table(tmp_path / "classes.csv")
    return tmp_path


def load(project: Path, table: str = "classes.csv", **given):
    labels = LabelSettings(**{"labels": str(project / table), "label_map": MAP} | given)
    return load_cohort(
        str(project / "patches"), project / "store", patches=PatchSettings(32), labels=labels, stain_map=STAIN_MAP
    )


@pytest.mark.parametrize("table", ["classes.csv", "classes.tsv", "classes.xlsx"])
def test_a_table_elsewhere_labels_a_flat_folder(project, capsys, table):
    write_table(project / table)
    os.chmod(project / "patches", 0o555)
    before = sorted(path.name for path in (project / "patches").iterdir())
    cohort = load(project, table)
    os.chmod(project / "patches", 0o755)
    assert before == sorted(path.name for path in (project / "patches").iterdir()), "the folder stays as it was"
    cases = cohort.cases.set_index("case_id")
    expected = {str(case): ("benign", None, "high-grade", "high-grade")[CLASS_OF[case] - 1] for case in CLASS_OF}
    expected = {case: name for case, name in expected.items() if CLASS_OF[int(case)] in (1, 3, 4)}
    assert cohort.classes == ("benign", "high-grade") and len(cohort.bags) == 15
    assert {case: cohort.classes[label] for case, label in cases.label.items()} == expected
    n_patches = {case: 6 - 2 * (int(case) % 4 == 0) + (case == "4") for case in expected}
    assert cases.instances.to_dict() == n_patches, "two of each stain; the odd sox10. of case 4 is one more"
    assert cohort.columns == ("sex", "age")
    assert cases.sex.to_dict() == {case: "fm"[int(case) % 2] for case in expected}
    assert cases.age.to_dict() == {case: str(40 + int(case)) for case in expected}
    assert "label_map leaves out 5 cases of class 0, 5 cases of class 2." in cohort.note
    left_out = pd.read_csv(project / "store" / "left_out.csv").set_index("name").reason
    assert left_out[str(project / "patches/case_99_match_1_h&e_patch0.png")] == f"case 99 is not in {table}"
    assert "does not fit" in left_out[str(project / "patches/case_6_unmatched1_h&e_patch12 2.png")]
    assert (
        left_out["50"].startswith(f"is in {table}, but has no patch")
        and left_out["2"] == "5 cases left out by label_map"
    )
    where = f"{table}, sheet Cases" if table.endswith("xlsx") else table
    assert f"{where}: cases in column Case, labels in Class, no column of patients" in capsys.readouterr().out


def test_other_classes_use_what_is_in_the_store(project):
    load(project)
    before = {path: path.stat().st_mtime_ns for path in (project / "store").rglob("*.npy")}
    grades = load(project, label_map="0=no tumour; 1,2=tumour; 3,4=-")
    assert grades.classes == ("no tumour", "tumour")
    load(project)
    after = {path: path.stat().st_mtime_ns for path in (project / "store").rglob("*.npy")}
    assert before.items() <= after.items(), "nothing is read twice, whichever classes a run leaves out"


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        (
            None,
            {"label_map": "1=benign; 3,4=high-grade; 2=-"},
            "label_map does not name class 0; 0=0 keeps it, 0=- leaves",
        ),
        (None, {"label_map": f"{MAP}; 7=x"}, "label_map names class 7, which no case has"),
        (None, {"label_map": "1=benign"}, "fewer than two classes are left"),
        (
            None,
            {"label_column": "Klasse"},
            "label_column Klasse: there is no such column; it has Case, Class, sex, age",
        ),
        (None, {"labels": "none.csv"}, "none.csv: no such file"),
        (("Class", "tumor"), {}, "which column has the labels? no column is called so; give label_column, one of Case"),
        (("sex", "Grade"), {}, "which column has the labels? several columns could be it, Class and Grade"),
        (("\n3,3", "\n3,3,f,1\n3,4"), {}, "line 5: label of case 3 is 4, but 3 in line 4"),
        (("Case,", "Case,Case,"), {}, "several columns could be it, Case and Case"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_line(project, change, given, message):
    table = project / "classes.csv"
    if change:
        table.write_text(table.read_text().replace(*change, 1))
    with pytest.raises(InputError) as refusal:
        load(project, **given)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_table_of_other_cases_is_refused(project):
    (project / "classes.csv").write_text("Case,Class\nS-1,1\nS-2,3\n")
    with pytest.raises(InputError, match="its cases are called S-1 and S-2, those of the files 1 and 10; give"):
        load(project)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is protected by a password"),
        ("classes.xlsx", b"PK\x03\x04 cut short", "is damaged"),
        ("classes.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ".xls is not read; save it as .xlsx"),
        ("classes.ods", b"PK\x03\x04", ".ods is not read; save it as .xlsx"),
    ],
)
def test_a_workbook_that_cannot_be_read_is_named(project, name, content, message):
    (project / name).write_bytes(content)
    with pytest.raises(InputError) as refusal:
        load(project, name)
    assert f"{name}: {message}" in str(refusal.value)


def test_a_missing_label_leaves_out_its_case(project):
    table = project / "classes.csv"
    table.write_text(table.read_text().replace("\n3,3,", "\n3,NA,"))
    cohort = load(project)
    assert "3" not in set(cohort.cases.case_id) and len(cohort.bags) == 14
    left_out = pd.read_csv(project / "store" / "left_out.csv")
    assert "case 3 has no label in classes.csv, line 4" in set(left_out.reason)


def test_named_cohorts_keep_their_labels_and_may_be_mapped():
    with pytest.raises(InputError, match="the labels of cohort musk1 are its own"):
        load_cohort("musk1", labels=LabelSettings(labels="t.csv"))
    with pytest.raises(InputError, match="case_column Case has no effect without labels"):
        load_cohort("musk1", labels=LabelSettings(case_column="Case"))
    with pytest.raises(InputError, match="the classes of cohort musk1 are fixed"):
        load_cohort("musk1", positive_class="musk")
    plain = load_cohort("musk1")
    mapped = load_cohort("musk1", labels=LabelSettings(label_map="musk=a; non-musk=b"), positive_class="b")
    assert mapped.classes == ("a", "b")
    assert [bag.label for bag in mapped.bags] == [1 - bag.label for bag in plain.bags]


def test_features_and_their_labels_in_one_workbook(project):
    book = openpyxl.Workbook()
    files, cases = book.active, book.create_sheet("cases")
    files.title = "files"
    files.append(["case_id", "file", "scanner"])
    cases.append(["Case", "Patient", "Diagnosis", "site", "born"])
    for i in range(1, 9):
        np.save(project / f"{i}.npy", np.random.default_rng(i).normal(size=(4, 3)).astype(np.float32))
        files.append([f"case_{i:03d}", f"{i}.npy", "ab"[i % 2]])
        cases.append([i, f"p{i // 2}", i % 3, "north" if i < 5 else None, pd.Timestamp(1960 + i, 1, 2)])
    book.save(project / "study.xlsx")
    labels = LabelSettings(labels="study.xlsx", label_map="0=-;1=a;2=b", label_column="diagnosis")
    cohort = load_cohort("study.xlsx", project / "store", labels=labels, positive_class="b")
    table = cohort.cases.set_index("case_id")
    assert table.label.to_dict() == {f"case_{i:03d}": i % 3 - 1 for i in range(1, 9) if i % 3}
    assert table.patient_id["case_004"] == "p2" and table.site.tolist() == ["north"] * 3 + [""] * 3
    assert table.born["case_001"] == "1961-01-02" and table.scanner["case_001"] == "b"
    assert cohort.note == "label_map leaves out 2 cases of class 0."


def test_a_run_and_its_evaluation_by_further_columns(project, run_notebook):
    given = {
        "cohort": "patches",
        "labels": "classes.csv",
        "label_map": MAP,
        "stain_map": STAIN_MAP,
        "patch_size": 32,
        "model": "hierarchical_attention",
        "n_folds": 3,
        "epochs": 2,
        "device": "cpu",
        "run_name": "one",
    }
    done = run_notebook(**given)
    assert done.returncode == 0, done.stderr[-2000:]
    run = project / "papermill_runs" / "first" / "one"
    assert read_json(run / "model.json")["classes"] == ["benign", "high-grade"]
    environment = read_json(run / "environment.json")
    assert "label_map leaves out 5 cases of class 0, 5 cases of class 2." in environment["cohort"]["note"]
    text = printed(project / "out.ipynb")
    assert "15 cases of 15 patients (each case counts as a patient), with the columns sex, age" in text
    done = run_notebook(
        "evaluate", output="evaluate.ipynb", run="papermill_runs/first/one", device="cpu", run_name="two"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    folder = project / "papermill_runs" / "evaluations" / "two"
    tested = pd.read_csv(run / "predictions.csv", dtype=str).query("set == 'test'").case_id.astype(int)
    groups = read_json(folder / "metrics.json")["subgroups"]
    assert groups["sex: m"]["n"] == sum(case % 2 for case in tested) and "age is cut into thirds" not in groups
    card = (folder / "model_card.md").read_text()
    assert "How well it does by sex, age is shown under Subgroups" in card
    assert "Some scores have no interval" in card and "fewer than 10 patients" in card


def test_another_cohort_is_labelled_as_the_run_was(project, run_notebook):
    musk = load_cohort("musk1")
    rows = []
    for i, bag in enumerate(musk.bags):
        np.save(project / f"{i}.npy", bag.instances.numpy())
        rows.append((f"abroad{i}", f"{i}.npy", ("non-musk", "ill")[bag.label], ("north", "south")[i % 2]))
    table = pd.DataFrame(rows, columns=["case_id", "file", "class", "site"])
    table[["case_id", "file"]].to_csv(project / "files.csv", index=False)
    table[["case_id", "class", "site"]].to_csv(project / "theirs.tsv", index=False, sep="\t")
    given = {
        "cohort": "musk1",
        "label_map": "musk=ill; non-musk=well",
        "positive_class": "ill",
        "model": "mean",
        "epochs": 2,
        "device": "cpu",
    }
    assert run_notebook(**given, run_name="musk").returncode == 0
    asked = {"run": "papermill_runs/first/musk", "cohort": "files.csv", "device": "cpu", "run_name": "abroad"}
    done = run_notebook("evaluate", output="evaluate.ipynb", labels="theirs.tsv", **asked)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = read_json(project / "papermill_runs/evaluations/abroad/metrics.json")
    assert metrics["cases"] == len(musk.bags)
    assert metrics["subgroups"]["site: north"]["n"] == sum(table.site == "north")
    assert metrics["subgroups"]["site: north"]["auroc"][1] is not None, "a group of this size has an interval"
