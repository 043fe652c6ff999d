"""From slides and patches to a scored run with stains and sections, with usable and unusable files."""

import json
import os
import shutil
import struct
import subprocess
import zlib

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from conftest import ROOT, papermill_command
from PIL import Image

from mil_workbench.data.features import read_features
from mil_workbench.data.manifests import cohort_from_manifest
from mil_workbench.data.patches import PatchSettings
from mil_workbench.data.slides import cohort_from_slides
from mil_workbench.data.stain_phantoms import phantom_sections, write_patch_folder, write_slides
from mil_workbench.data.stores import InstanceStore
from mil_workbench.files import InputError, read_json
from mil_workbench.record.parameters import read_parameters
from mil_workbench.studies import scaling
from mil_workbench.workflows.train import load, start_with

REAL_FILES = ROOT.parent / "shared" / "data" / "feature_files_and_tiles"
needs_real_files = pytest.mark.skipif(
    not REAL_FILES.is_dir(), reason="the real feature files and tiles are not on this machine"
)
of_one_folder = pytest.mark.xdist_group("patch_folder")  # in one process, which makes it once
SMALL = {
    "epochs": 2,
    "n_folds": 3,
    "warmup_epochs": 1,
    "device": "cpu",
    "study": "stains",
    "patch_size": 96,
    "patches_per_section": 8,
    "model": "hierarchical_attention",
}


def few_sections(n_of_each: int):
    "Return one section of each stain of the first cases, `n_of_each` benign and as many malignant."
    sections = [section for section in phantom_sections(30, seed=3) if section.number == 0]
    cases = {}
    for section in sections:
        cases.setdefault(section.label, {}).setdefault(section.case_id, []).append(section)
    return [section for by_case in cases.values() for own in list(by_case.values())[:n_of_each] for section in own]


@pytest.fixture(scope="module")
def patch_folder(tmp_path_factory):
    "A folder with eight cases as patch images, and with the other files that real folders hold."
    folder = tmp_path_factory.mktemp("data") / "patches"
    write_patch_folder(folder, few_sections(4))
    patches = sorted(folder.glob("*.png"))
    for cut, wrong in zip(patches[:12:2], patches[1:12:2]):  # so many of the first section that some are drawn
        cut.write_bytes(cut.read_bytes()[:2000])
        wrong.write_text("not an image")
    (folder / f"._{patches[0].name}").write_bytes(b"resource fork")
    (folder / "notes.txt").write_text("cut on Tuesday")
    return folder


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    "The manifest of eight cases as whole-slide files, one of which is cut short."
    manifest = write_slides(tmp_path_factory.mktemp("data") / "slides", few_sections(4))
    broken = next(manifest.parent.glob("*_melan_*.tif"))
    broken.write_bytes(broken.read_bytes()[:1000])
    return manifest


def images_of(executed: str) -> int:
    return sum(
        "image/png" in out.get("data", {}) for cell in json.loads(executed)["cells"] for out in cell.get("outputs", [])
    )


@of_one_folder
def test_patch_folder_to_scores(run_notebook, tmp_path, patch_folder, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")  # two processes search the folder
    done = run_notebook(**SMALL, cohort=patch_folder, run_name="patches")
    assert done.returncode == 0, done.stderr[-2000:]
    executed = (tmp_path / "out.ipynb").read_text()
    assert (
        "left out: file" in executed
        and "is not an image" in executed
        and "image file is truncated" in executed
        and "its name does not fit patch_pattern" in executed
    )
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
        assert sum(case["case"][:]) == pytest.approx(1, abs=1e-5)
        assert set(case["stain"].attrs["groups"]) <= {"h&e", "melan", "sox10"}

    stores = {path: path.stat().st_mtime_ns for path in (tmp_path / "stores").rglob("*.npy")}
    assert run_notebook(**{**SMALL, "cohort": patch_folder, "run_name": "again", "seed": 1}).returncode == 0
    assert stores == {path: path.stat().st_mtime_ns for path in (tmp_path / "stores").rglob("*.npy")}, (
        "nothing is searched or encoded twice"
    )


def test_slides_extracted_by_two_jobs_at_once_then_trained(run_notebook, tmp_path, slides):
    options = {
        "cohort": slides,
        "patch_size": 96,
        "um_per_pixel": 1.0,
        "stain_normalisation": "macenko",
        "device": "cpu",
    }
    options["patches_per_section"] = 8
    extra = {"n_shards": 2, "write_h5": "trident", "h5_folder": tmp_path / "h5"}
    jobs = []
    for shard in (0, 1):
        command = papermill_command(
            "extract_features", tmp_path / f"extract-{shard}.ipynb", tmp_path, shard=shard, **options, **extra
        )
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
    assert {path: path.stat().st_mtime_ns for path in features.glob("*.npy")} == before, (
        "training uses the features as they were extracted"
    )
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
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file", "stain", "section"]).to_csv(
        manifest, index=False
    )
    of_features = {name: value for name, value in SMALL.items() if "patch" not in name}
    extras = {
        "attention_layers": 2,
        "classifier_layers": 2,
        "attention_dropout": 0.1,
        "classifier_dropout": 0.2,
        "weight_decay": 0.01,
        "patience": 1,
    }
    done = run_notebook(**of_features, **extras, cohort=manifest, run_name="features")
    assert done.returncode == 0, done.stderr[-2000:]
    description = read_json(tmp_path / "papermill_runs/stains/features/model.json")["description"]
    assert description["levels"] == ["section", "stain", "case"] and description["attention_dropout"] == 0.1


@needs_real_files
def test_real_feature_files_and_tiles(tmp_path):
    slides = (
        "TCGA-3X-AAVA-01Z-00-DX1",
        "TCGA-AD-6964-01Z-00-DX1",
    )  # one calls its features `features`, the other `feats`
    manifest = tmp_path / "tcga.csv"
    rows = [
        (slide[:12], slide[:12], label, REAL_FILES / slide / "features.h5", "H&E")
        for slide, label in zip(slides, ("bile duct", "colon"))
    ]
    pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file", "stain"]).to_csv(manifest, index=False)
    cohort = cohort_from_manifest(manifest, tmp_path / "features", positive_class="colon")
    assert [bag.instances.shape for bag in cohort.bags] == [(180, 512), (777, 512)]
    assert cohort.bags[0].coords is None and cohort.bags[1].coords.shape == (777, 2)

    tiles = tmp_path / "tiles"
    shutil.copytree(REAL_FILES, tiles)  # jpg tiles of 256 and of 512 pixels, a tif, notes and feature files
    (tiles / "labels.csv").write_text("case_id,label\nTCGA-3X-AAVA,bile duct\nTCGA-AD-6964,colon\n")
    pattern = r"(?P<case>TCGA-\w+-\w+)-01Z-00-(?P<stain>DX)\d/.*?(\((?P<x>\d+),(?P<y>\d+)\))?\.jpg$"
    cohort = cohort_from_slides(tiles, tmp_path / "places", PatchSettings(size=224), pattern, positive_class="colon")
    assert [len(bag) for bag in cohort.bags] == [6, 3] and "4 of 13 files are left out" in cohort.note
    assert cohort.bags[1].instances.read().shape == (3, 3, 224, 224)
    assert sorted(cohort.bags[1].coords[:, 0].tolist()) == [16896, 22016, 23040]


@of_one_folder
def test_trained_encoder_on_sections(run_notebook, tmp_path, patch_folder):
    trained = {
        "train_encoder": True,
        "encoder_weights": "none",
        "encoder_chunk": 8,
        "bag_size": 2,
        "patch_size": 32,
        "patches_per_section": 3,
    }
    done = run_notebook(
        **{**SMALL, **trained, "epochs": 1, "warmup_epochs": 0}, cohort=patch_folder, run_name="trained"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert pd.read_csv(tmp_path / "papermill_runs/stains/trained/history.csv").train_loss.notna().all()


@pytest.mark.parametrize(
    "parameters, message",
    [
        (
            {"cohort": "digits", "patch_size": 64},
            "patch_size 64 has no effect on cohort digits, whose instances are features already",
        ),
        (
            {"cohort": "stain-phantom", "um_per_pixel": 1.0},
            "um_per_pixel 1.0 has no effect on cohort stain-phantom, whose instances are patches of one size",
        ),
        ({"cohort": "stain-phantom", "model": "volume3d"}, "model volume3d needs volumes"),
        ({"cohort": "digits", "attention_dropout": 0.1}, "attention_dropout 0.1 has no effect on model dual_stream"),
        ({"cohort": "patches", "patch_pattern": "case_(?P<case>.*)"}, "has no group stain"),
        ({"cohort": "patches", "patch_pattern": r"(?P<case>\d+)-(?P<stain>\w+)"}, "none of its 3 files is a patch"),
        ({"cohort": "patches"}, "put a labels.csv with the columns case_id and label into it"),
        ({"cohort": "patches", "strict": True}, "strict: file"),
        (
            {"cohort": "patches", "encoder": "resnet9000"},
            "encoder 'resnet9000' is not known; give one of resnet18, densenet121",
        ),
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
@pytest.mark.slow  # the chapter studies/stains tries its functions
def test_stain_study(run_notebook, tmp_path, patch_folder):
    (tmp_path / "settings.ini").touch()  # so that this folder counts as the project
    (tmp_path / "nbs").symlink_to(ROOT / "nbs")
    options = {
        "cohort": patch_folder,
        "models": "hierarchical_attention,mean",
        "n_folds": 2,
        "epochs": 1,
        "patch_size": 32,
        "measure": "none",
    }
    done = run_notebook("stain_study", **options)
    assert done.returncode == 0, done.stderr[-2000:]
    executed = (tmp_path / "out.ipynb").read_text()
    assert "pooled test AUROC" in executed and "stain taken out" in executed
    assert len(list(tmp_path.glob("papermill_runs/stains/*/metrics.json"))) == 4


def some_tissue(side: int, seed: int = 0) -> np.ndarray:
    return np.clip(
        np.array([190, 120, 170]) + np.random.default_rng(seed).normal(0, 22, (side, side, 1)), 0, 255
    ).astype(np.uint8)


def write_slide(path, picture, description=None):
    resolution = {} if description else {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        path, picture, tile=(256, 256), photometric="rgb", metadata=None, description=description, **resolution
    )


def write_manifest(folder, names, **columns):
    table = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(len(names))],
            "patient_id": [f"p{i}" for i in range(len(names))],
            "label": ["benign", "malignant"] * (len(names) // 2) + ["benign"] * (len(names) % 2),
            "file": names,
            **columns,
        }
    )
    table.to_csv(folder / "slides.csv", index=False)
    return folder / "slides.csv"


@pytest.mark.parametrize("frame", [0, 3, 90, 128, 200, 255, "noise", "sides of two greys", "tinted"], ids=str)
@pytest.mark.parametrize("glass", [243, 225])
def test_nothing_without_texture_is_drawn(tmp_path, frame, glass):
    rng, picture = np.random.default_rng(1), np.empty((1200, 1400, 3), np.uint8)
    picture[:] = (
        frame if isinstance(frame, int) else {"noise": 20, "sides of two greys": 60, "tinted": (150, 90, 120)}[frame]
    )
    if frame == "noise":
        picture += rng.integers(0, 9, picture.shape, dtype=np.uint8)
    if frame == "sides of two greys":
        picture[:, :313] = 170
    picture[201:1011, 303:1203] = np.clip(glass + rng.normal(0, 1.5, (810, 900, 3)), 0, 255)
    picture[410:810, 510:1010] = some_tissue(500)[:400]
    for name in ("a.tif", "b.tif"):
        write_slide(tmp_path / name, picture)
    cohort = cohort_from_slides(
        write_manifest(tmp_path, ["a.tif", "b.tif"]), tmp_path / "store", PatchSettings(64, 0.5, None), n_workers=1
    )
    corners, _ = cohort.bags[0].instances.source.corners(cohort.bags[0].instances.rows)
    x, y = corners.T
    covered = (  # share of each patch that is tissue
        (np.minimum(x + 64, 1010) - np.maximum(x, 510)).clip(0)
        * (np.minimum(y + 64, 810) - np.maximum(y, 410)).clip(0)
        / 64**2
    )
    assert covered.min() > 0.3 and len(corners) >= 36, "only tissue is drawn, and all of it"
    listed = pd.read_csv(tmp_path / "store" / "left_out.csv")
    n = int(cohort.note.split("Of ")[1].split(" tiles")[0])
    counted = listed[listed.name == str(tmp_path / "a.tif")].reason.str.extract(r"^(\d+) of")[0].astype(int).sum()
    assert n == 2 * 18 * 21 and counted + len(corners) == 18 * 21, "tiles that are left out are counted by reason"


def write_bad_pictures(folder, prefix):
    "Write files of every kind that is not a patch, with names that begin with `prefix`; return how many."
    good = folder / f"{prefix}0.png"
    Image.fromarray(some_tissue(64)).save(good)
    bomb = bytearray(good.read_bytes())
    bomb[16:24] = struct.pack(">II", 400_000, 400_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    tifffile.imwrite(folder / "whole.tif", some_tissue(64), photometric="rgb")
    whole = (folder / "whole.tif").read_bytes()
    (folder / "whole.tif").unlink()
    contents = {
        "empty.png": b"",
        "bomb.png": bytes(bomb),
        "text.png": b"<html>404</html>",
        "cut.png": good.read_bytes()[:500],
        "cut.tif": whole[: len(whole) // 2],
        "header.tif": whole[:9],
        "noise.jpg": os.urandom(999),
        "lfs.png": b"version https://git-lfs.github.com/spec/v1",
        "zip.png": b"PK\x03\x04",
        "features.png": b"\x89HDF\r\n",
        "black.png": None,
        "float.tif": None,
        "stack.tif": None,
        "lab.tif": None,
        "moving.gif": None,
    }
    for name, content in contents.items():
        path = folder / f"{prefix}{name}"
        if content is not None:
            path.write_bytes(content)
        elif name == "black.png":
            Image.new("RGB", (64, 64)).save(path)
        elif name == "moving.gif":
            Image.fromarray(some_tissue(64)).save(
                path, save_all=True, append_images=[Image.fromarray(some_tissue(64, 1))]
            )
        else:
            picture = {
                "float.tif": values.astype(np.float32),
                "stack.tif": np.stack([values.astype(np.uint8)] * 3),
                "lab.tif": some_tissue(64),
            }[name]
            tifffile.imwrite(path, picture, photometric="cielab" if name == "lab.tif" else "minisblack")
    return len(contents)


def test_bad_patches_are_named_and_the_others_go_on(tmp_path):
    folder = tmp_path / "patches"
    folder.mkdir()
    n_bad = write_bad_pictures(folder, "case_1_match_1_h&e_patch7_x1_y1.")
    for case in (1, 2):
        for patch in range(3):
            Image.fromarray(some_tissue(64, seed=10 * case + patch)).save(
                folder / f"case_{case}_match_1_h&e_patch{patch}.PNG"
            )
    (folder / "case_1_match_1_h&e_patch91.png").symlink_to(folder / "nowhere.png")
    (folder / "case_1_match_1_h&e_patch92.png").mkdir()
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "case_1_match_1_h&e_patch93.png")
    (folder / "Labels.CSV").write_text("case_id,label,patient_id\n1,benign,A\n2,malignant,B\n")
    pattern = r"case_(?P<case>\d+)_(?P<section>match)_(?P<number>\d+)_(?P<stain>[^_]+)_patch"
    cohort = cohort_from_slides(folder, tmp_path / "store", PatchSettings(64), pattern, n_workers=1)
    assert [len(bag) for bag in cohort.bags] == [4, 3] and [bag.patient_id for bag in cohort.bags] == ["A", "B"]
    assert f"{n_bad + 3} of {n_bad + 3 + 7} files are left out" in cohort.note
    listed = pd.read_csv(tmp_path / "store" / "left_out.csv").set_index("name").reason
    reason = lambda end: next(text for name, text in listed.items() if name.endswith(end))
    for end, words in {
        "empty.png": "it is empty",
        "bomb.png": "exceeds limit",
        "text.png": "web page",
        "cut.tif": "cannot be read",
        "lfs.png": "git lfs pull",
        "zip.png": "archive",
        "black.png": "is blank",
        "float.tif": "floats",
        "stack.tif": "3 pictures",
        "lab.tif": "save it as RGB",
        "moving.gif": "2 pictures",
        "patch91.png": "link to a file that does not exist",
        "patch92.png": "a folder without files",
        "patch93.png": "not an ordinary file",
    }.items():
        assert words in reason(end), end


def test_bad_slides_are_named_and_the_others_go_on(tmp_path):
    picture = np.full((512, 512, 3), 243, np.uint8)
    picture[64:448, 64:448] = some_tissue(384)
    names = []
    for mpp in ("0", "-0.5", "inf", "nan", "unknown", "5000", "1e-6", "0.5"):
        names.append(f"mpp {mpp}.svs")
        write_slide(
            tmp_path / names[-1],
            picture,
            f"Aperio Image Library v11.2.1\r\n512x512 [0,0 512x512] (256x256) J2K/YUV16 Q=30|AppMag = 0|MPP = {mpp}",
        )
    for name, content in (
        ("a.zip", b"PK\x03\x04"),
        ("b.txt", b"cut on Tuesday"),
        ("c.czi", b"ZISRAWFILE"),
        ("d.svs", b""),
        ("e.tif", (tmp_path / names[0]).read_bytes()[:3000]),
    ):
        (tmp_path / name).write_bytes(content)
        names.append(name)
    tifffile.imwrite(
        tmp_path / "deep.tif",
        picture.astype(np.uint16) << 4,
        tile=(256, 256),
        photometric="rgb",
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    write_slide(tmp_path / "GOOD.TIF", picture)
    names += ["deep.tif", "gone.svs", "GOOD.TIF", "mpp 0 with a row.svs"]
    shutil.copy(tmp_path / "mpp 0.svs", tmp_path / names[-1])
    manifest = write_manifest(tmp_path, names, um_per_pixel=[""] * (len(names) - 1) + ["0.5"])
    cohort = cohort_from_slides(manifest, tmp_path / "store", PatchSettings(64, 0.5, None), n_workers=1)
    assert {bag.id: len(bag) for bag in cohort.bags} == {
        f"c{names.index(name)}": 36 for name in ("mpp 0.5.svs", "GOOD.TIF", "mpp 0 with a row.svs")
    }
    listed = pd.read_csv(tmp_path / "store" / "left_out.csv").set_index("name").reason
    of = lambda name: (
        next(text for text in listed if name in text) if name != "gone.svs" else listed[str(tmp_path / name)]
    )
    for name, words in {
        "mpp 0.svs": "0 µm per pixel, which no slide has; give the manifest a column um_per_pixel",
        "mpp -0.5.svs": "-0.5 µm",
        "mpp inf.svs": "inf µm",
        "mpp nan.svs": "does not say",
        "mpp unknown.svs": "does not say",
        "mpp 5000.svs": "5000 µm",
        "mpp 1e-6.svs": "no slide has",
        "a.zip": "archive",
        "b.txt": "text or a table",
        "c.czi": "microscope's own format",
        "d.svs": "empty",
        "e.tif": "cannot be read as a slide",
        "deep.tif": "16 bits",
        "gone.svs": "no such file",
    }.items():
        assert words in of(name), name


def test_pictures_of_many_bits_keep_their_relation(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "labels.csv").write_text("case_id,label\n1,benign\n2,malignant\n")
    for case, brightest in ((1, 700), (2, 3000)):  # as a camera of 12 bits writes a dim and a bright case
        for patch in range(3):
            values = np.random.default_rng(patch).integers(brightest // 3, brightest, (64, 64)).astype(np.uint16)
            Image.fromarray(values).save(folder / f"case_{case}_match_1_if_patch{patch}.png")
    cohort = cohort_from_slides(folder, tmp_path / "store", PatchSettings(64), n_workers=1)
    dim, bright = (bag.instances.read().double() for bag in cohort.bags)
    assert bright.mean() / dim.mean() == pytest.approx(3000 / 700, rel=0.02) and bright.max() == pytest.approx(
        2999 / 4095 * 255, abs=1
    )
    assert "In pictures of more than 8 bits 4,095 counts as white" in cohort.note


@pytest.mark.parametrize("as_manifest", [False, True])
def test_odd_names_of_stains_are_asked_about(tmp_path, monkeypatch, capsys, as_manifest):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "patches"
    (folder / "apart").mkdir(parents=True)
    odd = {(3, "h&e-labels"), (4, "sox10.")}
    rows = []
    for case in range(1, 7):
        for stain in ("h&e", "sox10", *(name for number, name in odd if number == case)):
            match = 2 if as_manifest and (case, stain) in odd else 1  # a manifest needs a section of its own
            name = f"case_{case}_match_{match}_{stain}_patch{len(stain)}.png"
            Image.fromarray(some_tissue(64, seed=case)).save(folder / name)
            rows.append((case, case, ("benign", "malignant")[case % 2], name, stain, name))
    (folder / "labels.csv").write_text(
        "case_id,label\n" + "".join(f"{case},{('benign', 'malignant')[case % 2]}\n" for case in range(1, 7))
    )
    if as_manifest:
        pd.DataFrame(rows, columns=["case_id", "patient_id", "label", "file", "stain", "section"]).assign(
            um_per_pixel=0.5
        ).to_csv(folder / "slides.csv", index=False)
    defaults = {name: parameter.default for name, parameter in read_parameters(ROOT / "nbs/runs/train.ipynb").items()}
    given = {
        "device": "cpu",
        "patch_size": 32,
        "cohort": "patches/slides.csv" if as_manifest else "patches",
        **({"um_per_pixel": 0.5} if as_manifest else {}),
    }
    begin = lambda **more: load(start_with(defaults | given | more, defaults))
    with pytest.raises(InputError) as refusal:
        begin()
    assert 'stain_map "h&e-labels=-; sox10.=sox10"' in str(refusal.value) and "h&e-labels in 1 case (1 file)" in str(
        refusal.value
    )
    assert "sox10 in 6 cases (6 files), sox10. in 1 case (1 file)" in capsys.readouterr().out
    cohort = begin(stain_map="h&e-labels=-; sox10.=sox10")
    assert {stain for bag in cohort.bags for stain in bag.levels[1].groups} == {"h&e", "sox10"}
    assert cohort.bags[3].instances.shape[0] > cohort.bags[0].instances.shape[0] == cohort.bags[2].instances.shape[0]
    kept = begin(stain_map="h&e-labels=h&e-labels; sox10.=-")
    assert "h&e-labels" in kept.bags[2].levels[1].groups
    with pytest.raises(InputError, match="stain_map: pas is not a stain of"):
        begin(stain_map="pas=h&e; h&e-labels=-; sox10.=-")


@pytest.mark.slow
def test_memory_of_cases_of_full_size():
    frozen = scaling.compare_steps_on_patches(
        "densenet121", False, stains=3, sections=4, patches=50, size=224, chunk=16
    )
    trained = scaling.compare_steps_on_patches("resnet18", True, stains=3, sections=4, patches=50, size=224, chunk=16)
    gained = scaling.compare_inference((100_000, 1_000_000), 512)
    print(frozen, trained, gained)
    assert frozen["ratio"] <= 1.1 and trained["ratio"] <= 1.25
    assert max(gained.values()) <= 300
