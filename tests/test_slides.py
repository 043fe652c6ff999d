"""From slides and patches to a scored run with stains and sections: what goes right, and what goes wrong."""
import json
import shutil
import subprocess

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from conftest import ROOT, papermill_command

from mil_workbench.batch.parameters import read_parameters
from mil_workbench.data.cohorts import cohort_from_manifest
from mil_workbench.data.features import read_features
from mil_workbench.data.slides import PatchSettings, cohort_from_slides
from mil_workbench.data.stain_phantoms import phantom_sections, write_patch_folder, write_slides
from mil_workbench.data.stores import InstanceStore
from mil_workbench.experiment import load, start_with
from mil_workbench.files import InputError, read_json
from mil_workbench.training import scaling

REAL_FILES = ROOT.parent / "shared" / "data" / "feature_files_and_tiles"
needs_real_files = pytest.mark.skipif(not REAL_FILES.is_dir(), reason="the real feature files and tiles are not on this machine")
of_one_folder = pytest.mark.xdist_group("patch_folder")  # in one process, which makes it once
SMALL = {"epochs": 2, "n_folds": 3, "warmup_epochs": 1, "device": "cpu", "study": "stains", "patch_size": 96, "patches_per_section": 8, "model": "hierarchical_attention"}


def few_sections(n_of_each: int):
    "One section of each stain of the first cases, `n_of_each` benign and as many malignant."
    sections = [section for section in phantom_sections(30, seed=3) if section.number == 0]
    cases = {}
    for section in sections:
        cases.setdefault(section.label, {}).setdefault(section.case_id, []).append(section)
    return [section for by_case in cases.values() for own in list(by_case.values())[:n_of_each] for section in own]


@pytest.fixture(scope="module")
def patch_folder(tmp_path_factory):
    "Eight cases as patch images, and among them what real folders hold."
    folder = tmp_path_factory.mktemp("data") / "patches"
    write_patch_folder(folder, few_sections(4))
    patches = sorted(folder.glob("*.png"))
    for cut, wrong in zip(patches[:12:2], patches[1:12:2]):  # of the first section: enough to be drawn
        cut.write_bytes(cut.read_bytes()[:2000])
        wrong.write_text("not an image")
    (folder / f"._{patches[0].name}").write_bytes(b"resource fork")
    (folder / "notes.txt").write_text("cut on Tuesday")
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    "Eight cases as whole-slide files with a manifest; one file is cut short."
    manifest = write_slides(tmp_path_factory.mktemp("data") / "slides", few_sections(4))
    broken = next(manifest.parent.glob("*_melan_*.tif"))
    broken.write_bytes(broken.read_bytes()[:1000])
    return manifest


def images_of(executed: str) -> int:
    return sum("image/png" in out.get("data", {}) for cell in json.loads(executed)["cells"] for out in cell.get("outputs", []))


@of_one_folder
def test_patch_folder_to_scores(run_notebook, tmp_path, patch_folder, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")  # the folder is looked through by two processes
    done = run_notebook(**SMALL, cohort=patch_folder, run_name="patches")
    assert done.returncode == 0, done.stderr[-2000:]
    executed = (tmp_path / "out.ipynb").read_text()
    assert "left out: file" in executed and "is not an image" in executed and "image file is truncated" in executed and "its name does not fit patch_pattern" in executed
    assert "._case" not in executed
    run = tmp_path / "papermill_runs/stains/patches"
    metrics = read_json(run / "metrics.json")
    assert set(metrics["without"]) == {"h&e", "melan", "sox10"}
    assert all(scores["cases"] >= 1 for scores in metrics["without"].values())
    listed = pd.read_csv(next((tmp_path / "stores").rglob("left_out.csv")))
    assert f"{len(listed)} of" in read_json(run / "environment.json")["cohort"]["note"] and 3 <= len(listed) <= 13
    assert images_of(executed) == 6, "among them stains and sections, patches, and a section's tissue with its heatmap"
    with h5py.File(run / "attention.h5") as file:
        case = next(iter(file["test"].values()))
        offsets = case["section"].attrs["offsets"]
        np.testing.assert_allclose(np.add.reduceat(case["section"][:], offsets[:-1]), 1, atol=1e-5)
        assert sum(case["case"][:]) == pytest.approx(1, abs=1e-5) and set(case["stain"].attrs["groups"]) <= {"h&e", "melan", "sox10"}

    stores = {path: path.stat().st_mtime_ns for path in (tmp_path / "stores").rglob("*.npy")}
    assert run_notebook(**{**SMALL, "cohort": patch_folder, "run_name": "again", "seed": 1}).returncode == 0
    assert stores == {path: path.stat().st_mtime_ns for path in (tmp_path / "stores").rglob("*.npy")}, "nothing is looked through or encoded twice"


def test_slides_extracted_by_two_jobs_at_once_then_trained(run_notebook, tmp_path, slides):
    options = {"cohort": slides, "patch_size": 96, "um_per_pixel": 1.0, "stain_normalisation": "macenko", "device": "cpu"}
    options["patches_per_section"] = 8
    extra = {"n_shards": 2, "write_h5": "trident", "h5_folder": tmp_path / "h5"}
    jobs = []
    for shard in (0, 1):
        command = papermill_command("extract_features", tmp_path / f"extract-{shard}.ipynb", tmp_path, shard=shard, **options, **extra)
        jobs.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for job in jobs:
        _, errors = job.communicate(timeout=600)
        assert job.returncode == 0, errors[-2000:]
    features = next(path for path in (tmp_path / "stores").glob("*-efficientnet_lite0-*"))
    store = InstanceStore(features)
    assert store.verify() == len(store.records) and len(store.records) == len(pd.read_csv(slides)) - 1
    before = {path: path.stat().st_mtime_ns for path in features.glob("*.npy")}

    shared = {name: options[name] for name in ("um_per_pixel", "stain_normalisation")}
    done = run_notebook(**{**SMALL, **shared}, cohort=slides, run_name="slides")
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in features.glob("*.npy")} == before, "training takes the features as they were extracted"
    executed = (tmp_path / "out.ipynb").read_text()
    assert "left out: section" in executed and "cannot be read as a slide" in executed

    written = sorted((tmp_path / "h5").glob("*.h5"))
    with h5py.File(written[0]) as file:
        assert file["coords"].attrs["patch_size_level0"] == 96 and file["features"].shape[1] == 320
    of_one = read_features(written[0])
    name = {name.replace("/", "_"): name for name in store.records}[written[0].stem]
    assert np.array_equal(of_one["instances"], store.read(store.rows(name)).numpy())


def test_manifest_of_features_with_stains(run_notebook, tmp_path):
    rng, rows = np.random.default_rng(0), []
    for case in range(12):
        for stain in ("h&e", "sox10")[: 1 + case % 2]:
            for section in (1, 2):
                values = rng.normal(size=(rng.integers(1, 30), 16)).astype(np.float32)
                path = tmp_path / f"{case}_{stain}_{section}.pt"
                torch.save(torch.from_numpy(values), path)
                rows.append((case, case // 2, ("benign", "malignant")[case // 2 % 2], path.name, stain, section))
    manifest = tmp_path / "features.csv"
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file", "stain", "section"]).to_csv(manifest, index=False)
    of_features = {name: value for name, value in SMALL.items() if "patch" not in name}
    extras = {"attention_layers": 2, "classifier_layers": 2, "attention_dropout": 0.1, "classifier_dropout": 0.2, "weight_decay": 0.01, "patience": 1}
    done = run_notebook(**of_features, **extras, cohort=manifest, run_name="features")
    assert done.returncode == 0, done.stderr[-2000:]
    description = read_json(tmp_path / "papermill_runs/stains/features/model.json")["description"]
    assert description["levels"] == ["section", "stain", "case"] and description["attention_dropout"] == 0.1


@needs_real_files
def test_real_feature_files_and_tiles(tmp_path):
    slides = ("TCGA-3X-AAVA-01Z-00-DX1", "TCGA-AD-6964-01Z-00-DX1")  # one calls its features `features`, the other `feats`
    manifest = tmp_path / "tcga.csv"
    rows = [(slide[:12], slide[:12], label, REAL_FILES / slide / "features.h5", "H&E") for slide, label in zip(slides, ("bile duct", "colon"))]
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file", "stain"]).to_csv(manifest, index=False)
    cohort = cohort_from_manifest(manifest, tmp_path / "features")
    assert [bag.instances.shape for bag in cohort.bags] == [(180, 512), (777, 512)]
    assert cohort.bags[0].coords is None and cohort.bags[1].coords.shape == (777, 2)

    tiles = tmp_path / "tiles"
    shutil.copytree(REAL_FILES, tiles)  # jpg tiles of 256 and of 512 pixels, a tif, notes and feature files
    (tiles / "labels.csv").write_text("case_id,label\nTCGA-3X-AAVA,bile duct\nTCGA-AD-6964,colon\n")
    pattern = r"(?P<case>TCGA-\w+-\w+)-01Z-00-(?P<stain>DX)\d/.*?(\((?P<x>\d+),(?P<y>\d+)\))?\.jpg$"
    cohort = cohort_from_slides(tiles, tmp_path / "places", PatchSettings(size=224), pattern)
    assert [len(bag) for bag in cohort.bags] == [6, 3] and "4 of 13 files are left out" in cohort.note
    assert cohort.bags[1].instances.read().shape == (3, 3, 224, 224)
    assert sorted(cohort.bags[1].coords[:, 0].tolist()) == [16896, 22016, 23040]


@of_one_folder
def test_trained_encoder_on_sections(run_notebook, tmp_path, patch_folder):
    trained = {"train_encoder": True, "encoder_weights": "none", "encoder_chunk": 8, "bag_size": 2, "patch_size": 32, "patches_per_section": 3}
    done = run_notebook(**{**SMALL, **trained, "epochs": 1}, cohort=patch_folder, run_name="trained")
    assert done.returncode == 0, done.stderr[-2000:]
    assert pd.read_csv(tmp_path / "papermill_runs/stains/trained/history.csv").train_loss.notna().all()


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"cohort": "digits", "patch_size": 64}, "patch_size 64 has no effect on cohort digits, whose instances are features already"),
        ({"cohort": "stain-phantom", "um_per_pixel": 1.0}, "um_per_pixel 1.0 has no effect on cohort stain-phantom, whose instances are patches of one size"),
        ({"cohort": "stain-phantom", "model": "volume3d"}, "model volume3d needs volumes"),
        ({"cohort": "digits", "attention_dropout": 0.1}, "attention_dropout 0.1 has no effect on model dual_stream"),
        ({"cohort": "patches", "patch_pattern": "case_(?P<case>.*)"}, "has no group stain"),
        ({"cohort": "patches", "patch_pattern": r"(?P<case>\d+)-(?P<stain>\w+)"}, "none of its 3 files is a patch"),
        ({"cohort": "patches"}, "put a labels.csv with the columns case_id and label into it"),
        ({"cohort": "patches", "strict": True}, "strict: file"),
        ({"cohort": "patches", "encoder": "resnet9000"}, "encoder 'resnet9000' is not known; give one of resnet18, densenet121"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_refused_in_one_line(tmp_path, monkeypatch, parameters, message):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "patches"
    folder.mkdir()
    if "labels.csv" not in message:
        (folder / "labels.csv").write_text("case_id,label\n1,benign\n2,malignant\n")
    for case in (1, 2):
        noise = np.random.default_rng(case).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"case_{case}_match_1_h&e_patch1.png")
    (folder / "case_1_match_1_h&e_patch2.png").write_bytes(b"")
    defaults = {name: parameter.default for name, parameter in read_parameters(ROOT / "nbs/runs/train.ipynb").items()}
    with pytest.raises(InputError) as refusal:
        load(start_with(defaults | {"device": "cpu"} | parameters, defaults))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@of_one_folder
def test_stain_study(run_notebook, tmp_path, patch_folder):
    (tmp_path / "settings.ini").touch()  # so that this folder counts as the project
    (tmp_path / "nbs").symlink_to(ROOT / "nbs")
    options = {"cohort": patch_folder, "models": "hierarchical_attention,mean", "n_folds": 2, "epochs": 1, "patch_size": 32, "measure": "none"}
    done = run_notebook("stain_study", **options)
    assert done.returncode == 0, done.stderr[-2000:]
    executed = (tmp_path / "out.ipynb").read_text()
    assert "pooled test AUROC" in executed and "stain taken out" in executed
    assert len(list(tmp_path.glob("papermill_runs/stains/*/metrics.json"))) == 4


@pytest.mark.slow
def test_memory_of_cases_of_full_size():
    frozen = scaling.compare_steps_on_patches("densenet121", False, stains=3, sections=4, patches=50, size=224, chunk=16)
    trained = scaling.compare_steps_on_patches("resnet18", True, stains=3, sections=4, patches=50, size=224, chunk=16)
    gained = scaling.compare_inference((100_000, 1_000_000), 512)
    print(frozen, trained, gained)
    assert frozen["ratio"] <= 1.1 and trained["ratio"] <= 1.25
    assert max(gained.values()) <= 300
