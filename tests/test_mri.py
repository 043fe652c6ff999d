"""From NIfTI files to a trained, scored run: the slices' whole way, with what goes right and what goes wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from mil_workbench.data.phantoms import phantom_patients, write_brats_folder
from mil_workbench.data.scans import read_volume
from mil_workbench.files import InputError, read_json
from mil_workbench.record.parameters import read_parameters
from mil_workbench.training.checkpoints import load_checkpoint
from mil_workbench.workflows.run_many import run_once

BRATS_SPACE = ROOT.parent / "shared" / "data" / "mri_brats_space"
needs_real_volumes = pytest.mark.skipif(
    not BRATS_SPACE.is_dir(), reason="the two real patients are not on this machine"
)
of_one_folder = pytest.mark.xdist_group("brats_folder")  # in one process, which makes it once
SMALL = {"epochs": 2, "n_folds": 3, "warmup_epochs": 1, "device": "cpu", "study": "mri", "slice_size": 32}


@pytest.fixture(scope="module")
def brats_folder(tmp_path_factory):
    "Twelve phantom patients as NIfTI files, six of each grade; one of them has a truncated file."
    folder = tmp_path_factory.mktemp("data") / "BraTS"
    patients = phantom_patients(40)
    chosen = [p for p in patients if p.label == "HGG"][:6] + [p for p in patients if p.label == "LGG"][:7]
    write_brats_folder(folder, chosen)
    broken = next((folder / "LGG").glob("*/*_flair.nii.gz"))
    broken.write_bytes(broken.read_bytes()[:5000])
    return folder


@of_one_folder
def test_brats_folder_to_scores(run_notebook, tmp_path, brats_folder):
    options = {**SMALL, "cohort": brats_folder, "run_name": "frozen"}
    done = run_notebook(**options)
    assert done.returncode == 0, done.stderr[-2000:]
    executed = (tmp_path / "out.ipynb").read_text()
    assert "left out: case phantom-" in executed and "cannot be read as NIfTI" in executed
    assert "positive class: HGG" in executed
    run = tmp_path / "papermill_runs/mri/frozen"
    metrics = read_json(run / "metrics.json")
    assert 0 <= metrics["instance"]["auroc"] <= 1 and 0 <= metrics["instance"]["position_auroc"] <= 1
    assert read_json(run / "model.json")["frozen_encoder"]["name"] == "efficientnet_lite0"
    assert "1 of 13 cases are left out" in read_json(run / "environment.json")["cohort"]["note"]
    figures = [
        out
        for cell in json.loads(executed)["cells"]
        for out in cell.get("outputs", [])
        if "image/png" in out.get("data", {})
    ]
    assert len(figures) == 5  # the fifth shows the critical slices

    stores = {path: path.stat().st_mtime_ns for path in (tmp_path / "stores").rglob("*.npy")}
    assert run_notebook(**{**options, "run_name": "again", "seed": 1}).returncode == 0
    assert stores == {path: path.stat().st_mtime_ns for path in (tmp_path / "stores").rglob("*.npy")}, (
        "nothing is prepared or encoded twice"
    )


@of_one_folder
def test_trained_encoder_and_3d_network(run_notebook, tmp_path, brats_folder):
    trained = {
        "train_encoder": True,
        "encoder_weights": "none",
        "augment": True,
        "bag_size": 8,
        "sampling_strategy": "entropy",
        "encoder_chunk": 8,
        "accumulate": 2,
        "encoder_lr": 1e-4,
    }
    done = run_notebook(**SMALL | {"epochs": 1, "warmup_epochs": 0}, cohort=brats_folder, run_name="trained", **trained)
    assert done.returncode == 0, done.stderr[-2000:]
    model, _ = load_checkpoint(tmp_path / "papermill_runs/mri/trained/checkpoints/best.safetensors")
    assert model.embedding.encoder.description["name"] == "resnet18"
    done = run_notebook(
        **{**SMALL, "epochs": 1, "warmup_epochs": 0}, cohort=brats_folder, run_name="volume3d", model="volume3d"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert pd.read_csv(tmp_path / "papermill_runs/mri/volume3d/history.csv").train_loss.notna().all()


@pytest.mark.parametrize(
    "parameters, message",
    [
        (
            {"cohort": "digits", "encoder": "resnet18"},
            "encoder resnet18 has no effect on cohort digits, whose instances are features already",
        ),
        ({"cohort": "digits", "model": "volume3d"}, "model volume3d needs volumes"),
        ({"cohort": "digits", "sampling_strategy": "entropy", "bag_size": 8}, "sampling_strategy entropy needs images"),
        ({"cohort": "no/such/folder"}, "is not known; give one of ucsb-breast"),
        ({"cohort": "digits", "augment": True}, "augment has no effect while the encoder is frozen"),
        ({"cohort": "gone.csv"}, "gone.csv: no such file"),
        pytest.param(
            {"device": "cuda"},
            "device cuda was asked for, but torch sees none",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_refused_in_one_line(tmp_path, monkeypatch, parameters, message):
    monkeypatch.chdir(tmp_path)
    defaults = {name: parameter.default for name, parameter in read_parameters(ROOT / "nbs/runs/train.ipynb").items()}
    with pytest.raises(InputError) as refusal:
        run_once({**defaults, "epochs": 2, "device": "cpu", **parameters}, defaults)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@of_one_folder
def test_missing_weights_say_what_to_do(run_notebook, tmp_path, brats_folder, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    done = run_notebook(**SMALL, cohort=brats_folder, train_encoder=True)
    assert done.returncode != 0
    assert (
        "run `mil-workbench fetch-weights resnet18` on a machine with internet" in done.stderr.strip().splitlines()[-1]
    )


def test_command_line_answers():
    command = Path(sys.executable).with_name("mil-workbench")
    assert "fetch-weights" in subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    done = subprocess.run([command, "fetch-weights", "efficientnet_lite0"], capture_output=True, text=True)
    assert done.returncode == 0 and "efficientnet-lite0" in done.stdout
    done = subprocess.run([command, "fetch-weights", "vgg"], capture_output=True, text=True)
    assert done.returncode == 2 and "vgg" in done.stderr


MEMORY_OF_A_STEP = """
import resource, sys, torch
from mil_workbench.data.bags import Bag, pack
from mil_workbench.models.build import build_model
n = int(sys.argv[1])
torch.manual_seed(0)
encoder = {"name": "resnet18", "in_channels": 4, "weights": "none", "train": True, "chunk": 32}
model = build_model("dual_stream", None, 2, encoder=encoder)
bags = [Bag(f"c{i}", f"p{i}", i, torch.randint(0, 256, (n, 4, 64, 64), dtype=torch.uint8)) for i in range(2)]
for _ in range(2):
    batch = pack(bags)
    torch.nn.functional.cross_entropy(model(batch).logits, batch.labels).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow  # two minutes; the chapter training/scaling says the same of fewer patches
def test_memory_follows_the_chunk_not_the_bag():
    peaks = [
        float(
            subprocess.run(
                [sys.executable, "-c", MEMORY_OF_A_STEP, str(n)], capture_output=True, text=True, check=True
            ).stdout
        )
        for n in (64, 256)
    ]
    print(f"peak with 64 slices {peaks[0]:.0f} MB, with 256 {peaks[1]:.0f} MB")
    assert peaks[1] < 1.1 * peaks[0]


def test_nibabels_own_files():
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    files = sorted(path for path in folder.iterdir() if path.name.endswith((".nii", ".nii.gz")))
    assert len(files) > 5
    read = 0
    for path in files:
        try:
            data, affine = read_volume(path)
        except InputError as error:
            assert path.name in str(error)
            continue
        read += 1
        assert data.ndim == 4 and nibabel.aff2axcodes(affine) == ("R", "A", "S")
        image = nibabel.as_closest_canonical(nibabel.load(path))
        np.testing.assert_allclose(
            data.reshape(image.shape), np.nan_to_num(image.get_fdata(), posinf=0, neginf=0), rtol=1e-5, atol=1e-5
        )
    assert read >= 3


PREPARE_A_PATIENT = """
import resource, sys, time
from pathlib import Path
import nibabel, numpy as np, psutil, torch
from mil_workbench.data.stores import InstanceStore
from mil_workbench.data.scans import VolumeCase, read_case
from mil_workbench.data.slices import slices_of
torch.set_num_threads(1)
folder, store = Path(sys.argv[1]), InstanceStore(sys.argv[2])
name = "TCGA-DU-7294"
endings = {"t1": "t1", "t1ce": "t1c", "flair": "flair", "t2": "t2"}
files = {modality: folder / f"{name}_{ending}.nii.gz" for modality, ending in endings.items()}
case = VolumeCase(name, name, "LGG", files, folder / f"{name}_autoseg_simple.nii.gz")
idle = psutil.Process().memory_info().rss / 2**20
store.write(name, {"path": name}, **slices_of(read_case(case)))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
times = []
for _ in range(8):
    start = time.perf_counter()
    for path in files.values():
        nibabel.load(path).get_fdata(dtype=np.float32)
    middle = time.perf_counter()
    store.write(name, {"path": name}, **slices_of(read_case(case)))
    times.append((middle - start, time.perf_counter() - middle))
read, prepared = np.min(times, axis=0)
print(prepared / read, peak - idle, int((store.array(name, "instance_labels") > 0).sum()))
"""


@needs_real_volumes
@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_preparing_a_real_patient_costs_little(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PREPARE_A_PATIENT, BRATS_SPACE, tmp_path / "store"],
        capture_output=True,
        text=True,
        check=True,
    )
    ratio, megabytes, lesion_slices = map(float, done.stdout.split())
    print(f"preparing takes {ratio:.2f} times get_fdata, {megabytes:.0f} MB above idle")
    assert ratio <= 1.5 and megabytes <= 300
    assert lesion_slices == 40  # as the origin of the files says


@needs_real_volumes
def test_real_patients_by_manifest(tmp_path):
    from mil_workbench.data.volumes import cohort_from_volumes

    rows = []
    for name, label in (("TCGA-DU-7294", "a"), ("TCGA-FG-6692", "b")):
        files = {modality: BRATS_SPACE / f"{name}_{modality}.nii.gz" for modality in ("t1", "t1c", "flair", "t2")}
        rows.append(
            {
                "case_id": name,
                "patient_id": name,
                "label": label,
                **files,
                "segmentation": BRATS_SPACE / f"{name}_autoseg_simple.nii.gz",
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "real.csv", index=False)
    cohort = cohort_from_volumes(tmp_path / "real.csv", tmp_path / "store", n_workers=1)
    assert [int((bag.instance_labels > 0).sum()) for bag in cohort.bags] == [40, 52]
    assert cohort.channels == ("t1", "t1c", "flair", "t2")


@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_second_start_is_quick(run_notebook, tmp_path, brats_folder):
    options = {**SMALL, "cohort": brats_folder}
    assert run_notebook(**options, run_name="first").returncode == 0
    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    script = (
        "import sys, time\nfrom mil_workbench.workflows import train, train_model\n"
        "from mil_workbench.record.parameters import defaults_of, read_parameters\n"
        f"defaults = defaults_of(read_parameters({str(ROOT / 'nbs/runs/train.ipynb')!r}))\n"
        f"values = {{**defaults, **{given!r}, 'run_name': 'second', 'seed': 3}}\n"
        "start = time.perf_counter()\nrun = train.start_with(values, defaults)\ncohort = train.load(run)\n"
        "cohort, sets = train.encode(run, cohort, train.split(run, cohort))\n"
        "model = train_model.build(run, cohort, sets)\n"
        "print('seconds', time.perf_counter() - start)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, env={**os.environ}
    )
    seconds = float(done.stdout.split("seconds")[1])
    print(f"second start: {seconds:.2f} s")
    assert seconds < 3
