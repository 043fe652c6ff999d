"""Thirty and more bad NIfTI files among good patients: each is named, and the others go on.

They are prepared from a script without a main guard.
"""

import gzip
import json
import os
import re
import struct

import nibabel as nib
import numpy as np
import pytest
from test_prepare import run_script

from mil_workbench.data.brats import brats_cases
from mil_workbench.data.scan_formats import holds_scans
from mil_workbench.data.scans import VolumeCase, read_case, read_volume
from mil_workbench.data.slices import slices_of
from mil_workbench.data.volumes import cohort_from_volumes
from mil_workbench.files import InputError

SHAPE = (12, 14, 10)
MODALITIES = ("t1", "t1ce", "t2", "flair")


def ball(seed: int = 0) -> np.ndarray:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return np.where(sum(axis**2 for axis in axes) < 0.7, np.random.default_rng(seed).normal(500, 60, SHAPE), 0).astype(
        np.int16
    )


def plain(data=None) -> bytes:
    return nib.Nifti1Image(ball() if data is None else data, np.eye(4)).to_bytes()


def patched(*patches: tuple[int, str, object], content: bytes | None = None) -> bytes:
    "The file with values of a struct's format put at some offsets of its header."
    changed = bytearray(content or plain())
    for offset, form, value in patches:
        struct.pack_into("<" + form, changed, offset, *(value if isinstance(value, tuple) else (value,)))
    return bytes(changed)


def dimensions(*sizes: int) -> tuple[int, str, tuple]:
    return 40, "8h", (len(sizes), *sizes, *[1] * (7 - len(sizes)))


NO_FORMS = (252, "2h", (0, 0))
BAD = {
    "huge dimensions": patched(dimensions(32767, 32767, 32767)),
    "huge dimensions, packed": gzip.compress(patched(dimensions(32767, 32767, 32767))),
    "huge fourth axis": gzip.compress(patched(dimensions(*SHAPE, 32767))),
    "a gigabyte, packed": gzip.compress(patched(dimensions(800, 800, 800))),
    "data type 0": patched((70, "h", 0)),
    "data type 1, bits": patched((70, "h", 1)),
    "data type of nobody": patched((70, "h", 12345)),
    "voxels beyond the end": patched((108, "f", 1e6)),
    "voxels at infinity": patched((108, "f", np.inf)),
    "voxels nowhere": patched((108, "f", np.nan)),
    "voxels before the file": patched((108, "f", -400.0)),
    "voxels in the header": patched((108, "f", 0.0)),
    "voxels where an extension may lie": patched((108, "f", 348.0)),
    "negative dimension": patched(dimensions(-12, 14, 10)),
    "no dimension": patched((40, "h", 0)),
    "nine dimensions": patched((40, "h", 9)),
    "no voxels": patched(dimensions(0, 14, 10)),
    "two axes": plain(ball()[..., 0]),
    "five axes": plain(np.stack([ball()] * 3, -1)[..., None, :]),
    "affine of zeros": patched((254, "h", 1), (280, "12f", (0.0,) * 12)),
    "affine of NaN": patched((254, "h", 1), (280, "12f", (np.nan,) * 12)),
    "affine of infinity": patched((254, "h", 1), (280, "12f", (np.inf,) * 12)),
    "two axes in one place": patched((254, "h", 1), (280, "12f", (1.0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0))),
    "voxels of a mile": patched((254, "h", 1), (280, "12f", (1.6e6, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))),
    "quaternion of nonsense": patched(NO_FORMS, (252, "h", 1), (256, "3f", (9.0, 9.0, 9.0))),
    "voxel size NaN": patched(NO_FORMS, (76, "4f", (1.0, np.nan, 1.0, 1.0))),
    "scale of infinity": patched((112, "2f", (np.inf, 0.0))),
    "complex": plain(ball().astype(np.complex64)),
    "colours": plain(np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
    "header of a pair": patched((344, "4s", b"ni1\0")),
    "no magic": patched((344, "4s", b"abcd")),
    "empty": b"",
    "empty, packed": gzip.compress(b""),
    "text": b"<html>not found</html>" * 50,
    "header alone": plain()[:352],
    "cut off": plain()[:2000],
    "cut off, packed": gzip.compress(plain())[:-300],
    "altered, packed": gzip.compress(plain())[:-8] + bytes(8),
    "bomb": gzip.compress(plain() + bytes(2**25)),
    "zeros": plain(np.zeros_like(ball())),
    "all NaN": plain(np.full(SHAPE, np.nan, np.float32)),
    "labels": plain((ball() > 500).astype(np.uint8)),
}
GOOD = {
    "packed with the wrong ending": gzip.compress(plain()),
    "NIfTI-2": nib.Nifti2Image(ball(), np.eye(4)).to_bytes(),
    "big-endian": nib.Nifti1Image(ball().astype(">i2"), np.eye(4), nib.Nifti1Header(endianness=">")).to_bytes(),
    "five axes of length 1": patched(dimensions(*SHAPE, 1, 1)),
    "in two members": gzip.compress(plain()[:1000]) + gzip.compress(plain()[1000:]),
    "zeros behind the voxels": plain() + bytes(512),
    "scale NaN, which is none": patched((112, "2f", (np.nan, np.nan))),
}

SCRIPT = """
import json, sys
from mil_workbench.data.slices import SliceSettings
from mil_workbench.data.volumes import cohort_from_volumes
cohort = cohort_from_volumes(sys.argv[1], sys.argv[2], SliceSettings(size=16), n_workers=2)
print("RESULT", json.dumps([list(cohort.cases.case_id), cohort.note]))
"""


def write_case(folder, name: str, files: dict[str, bytes]) -> None:
    (folder / name).mkdir(parents=True)
    for modality in MODALITIES:
        (folder / name / f"{name}_{modality}.nii").write_bytes(files.get(modality, plain(ball(len(name)))))


SOUND_FILES = ("zeros", "all NaN", "labels")  # whose cases are refused all the same


@pytest.mark.parametrize("what", [what for what in BAD if what not in SOUND_FILES])
def test_each_is_refused_by_name(tmp_path, what):
    (tmp_path / "bad.nii").write_bytes(BAD[what])
    with pytest.raises(InputError, match=r"bad\.nii: ") as refusal:
        read_volume(tmp_path / "bad.nii")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


@pytest.mark.parametrize("what", GOOD)
def test_what_only_looks_bad_is_read(tmp_path, what):
    (tmp_path / "good.nii.gz").write_bytes(GOOD[what])
    np.testing.assert_array_equal(read_volume(tmp_path / "good.nii.gz")[0][..., 0], ball())


def test_the_others_go_on(tmp_path):
    folder = tmp_path / "scans"
    for number in range(4):
        write_case(folder, f"good{number}", {})
    bad = [f"bad{number:02d}" for number in range(len(BAD))]
    for name, content in zip(bad, BAD.values()):
        write_case(folder, name, {"t2": content})
    for name in ("is_a_folder", "dangles", "loops"):
        write_case(folder, name, {})
        (folder / name / f"{name}_t2.nii").unlink()
    (folder / "is_a_folder" / "is_a_folder_t2.nii").mkdir()
    (folder / "dangles" / "dangles_t2.nii").symlink_to("nowhere.nii")
    (folder / "loops" / "loops_t2.nii").symlink_to("loops_t2.nii")
    names = [*bad, "is_a_folder", "dangles", "loops", *(f"good{number}" for number in range(4))]
    (folder / "labels.csv").write_text(
        "case_id,label\n" + "".join(f"{name},{'normal' if i % 2 else 'tumour'}\n" for i, name in enumerate(names))
    )
    done = run_script(SCRIPT, folder, tmp_path / "store", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    cases, note = json.loads(done.stdout.split("RESULT")[1])
    assert cases == [f"good{number}" for number in range(4)]
    assert all(name in note for name in (*bad, "is_a_folder", "dangles", "loops"))
    for name in bad[: len(BAD) - len(SOUND_FILES)]:
        assert f"left out: case {name}: {folder / name / f'{name}_t2.nii'}: " in done.stdout, name
    assert "t2 is blank" in done.stdout and "t2 looks like a segmentation" in done.stdout


def test_memory_is_judged_from_the_header(tmp_path, monkeypatch):
    (tmp_path / "large.nii").write_bytes(plain())
    monkeypatch.setattr("mil_workbench.data.nifti.psutil.virtual_memory", lambda: type("", (), {"available": 4000}))
    with pytest.raises(
        InputError, match="large.nii: its header declares .* GiB of voxels, but only .* GiB of memory are free"
    ):
        read_volume(tmp_path / "large.nii")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path):
    (tmp_path / "mine.nii").write_bytes(plain())
    (tmp_path / "mine.nii").chmod(0)
    with pytest.raises(InputError, match="mine.nii: cannot be read .Permission denied"):
        read_volume(tmp_path / "mine.nii")


@pytest.mark.parametrize(
    "values, is_named",
    [("mask", True), ("empty in half", True), ("parcels", True), ("image", False), ("32 grey levels", False)],
)
def test_a_column_of_masks_under_any_name(tmp_path, values, is_named):
    rows = []
    for number in range(4):
        (tmp_path / f"{number}_t1.nii").write_bytes(plain(ball(number)))
        cubes = np.indices(SHAPE) // 3  # 80 parcels of whole numbers
        other = {
            "image": ball(9 + number),
            "32 grey levels": ball(9 + number) // 12,
            "parcels": (ball() > 0) * (1 + cubes[0] + 4 * cubes[1] + 20 * cubes[2]),
        }.get(values)
        second = (
            other if other is not None else (ball(number) > 560).astype(np.uint8) * (number % 2 or values == "mask")
        )
        (tmp_path / f"{number}_x.nii").write_bytes(plain(second.astype(np.int16)))
        rows.append(f"c{number},p{number // 2},{'ab'[number // 2]},{number}_t1.nii,{number}_x.nii")
    (tmp_path / "m.csv").write_text("case_id,patient_id,label,t1,adc\n" + "\n".join(rows))
    if is_named:
        with pytest.raises(InputError, match="adc"):
            cohort_from_volumes(tmp_path / "m.csv", tmp_path / "store", n_workers=1)
    else:
        cohort = cohort_from_volumes(tmp_path / "m.csv", tmp_path / "store", n_workers=1)
        assert cohort.channels == ("t1", "adc") and cohort.cases.patient_id.nunique() == 2
        assert cohort.patients_from == "column patient_id of m.csv"


def tree(folder, names: dict[str, str]) -> None:
    "Four modalities for each case, under a pattern such as HGG/{}_{}.nii.gz."
    for name, pattern in names.items():
        for modality in MODALITIES:
            path = folder / pattern.format(name, modality)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(plain())


@pytest.mark.parametrize(
    "pattern",
    [
        "{grade}/{{0}}/{{0}}_{{1}}.nii.gz",
        "{grade}/{{0}}_{{1}}.nii",
        "{grade}/site/{{0}}/{{0}}_{{1}}.nii.gz",
        "{grade}/{{0}}/anat/{{1}}.nii.gz",
        "{grade}/{{0}}/{{0}}_{{1}}.NII.GZ",
        "{grade}/{{0}}_{{1}}.Nii.Gz",
        "{grade}/{{0}}/{{1}}.nii",
    ],
)
def test_folders_of_every_kind(tmp_path, pattern):
    tree(tmp_path, {f"c{i}": pattern.format(grade=grade) for i, grade in enumerate(("HGG", "HGG", "LGG", "LGG"))})
    assert holds_scans(tmp_path)
    found = brats_cases(tmp_path)
    assert sorted((case.id, case.label, case.patient_id) for case in found.cases) == [
        ("c0", "HGG", "c0"),
        ("c1", "HGG", "c1"),
        ("c2", "LGG", "c2"),
        ("c3", "LGG", "c3"),
    ]
    assert not found.left_out and found.patients_from == "each case counts as a patient"
    (tmp_path / "labels.csv").write_text("case_id;Patient ID;label\nc0;1;HGG\nc1;1;HGG\nc2;2;LGG\nc3;2;LGG\n")
    found = brats_cases(tmp_path)
    assert [case.patient_id for case in sorted(found.cases, key=lambda case: case.id)] == ["1", "1", "2", "2"]
    assert found.patients_from == "column patient_id of labels.csv"


def test_flat_folder_names_what_a_case_lacks(tmp_path):
    tree(tmp_path, {"a": "HGG/{}_{}.nii", "b": "HGG/{}_{}.nii", "c": "LGG/{}_{}.nii"})
    (tmp_path / "HGG/b_flair.nii").unlink()
    found = brats_cases(tmp_path)
    assert [case.id for case in found.cases] == ["a", "c"]
    assert found.left_out["b"].startswith("no flair file")


@pytest.mark.parametrize(
    "rows, message",
    [
        ("c0,p,a\nc1,q,b\nc0,p,b\n", "case c0: its rows give label as a and as b"),
        ("c0,p,a\nc1,q,b\nc0,p,\n", "case c0: its rows give label as a and as nothing"),
        ("c0,p,a\nc1,q,b\nc0,q,a\n", "case c0: its rows give patient_id as p and as q"),
        ("c0,,a\nc1,q,b\n", "line 2: patient_id of case c0 is missing"),
    ],
)
def test_contradictions_of_the_table_are_refused(tmp_path, rows, message):
    tree(tmp_path, {"c0": "{0}/{0}_{1}.nii", "c1": "{0}/{0}_{1}.nii"})
    (tmp_path / "labels.csv").write_text("case_id,patient_id,label\n" + rows)
    with pytest.raises(InputError, match=message):
        brats_cases(tmp_path)


def test_two_tables_that_contradict_one_another_and_names_in_other_letters(tmp_path):
    tree(tmp_path, {"c0": "{0}/{0}_{1}.nii", "c1": "{0}/{0}_{1}.nii"})
    (tmp_path / "labels.csv").write_text("case_id,label\nc0,a\nc1,b\n")
    (tmp_path / "mapping.csv").write_text("name,Grade\nc0,a\nc1,b\n")
    assert len(brats_cases(tmp_path).cases) == 2
    (tmp_path / "mapping.csv").write_text("name,Grade\nc0,a\nc1,a\n")
    with pytest.raises(InputError, match="mapping.csv: calls case c1 a, but labels.csv calls it b"):
        brats_cases(tmp_path)
    (tmp_path / "mapping.csv").unlink()
    (tmp_path / "labels.csv").write_text("case_id,label\nC0,a\nC1,b\n")
    with pytest.raises(InputError, match="labels.csv, line 2: case C0 is called c0 by its files"):
        brats_cases(tmp_path)


def test_no_label_and_impossible_values(tmp_path):
    (tmp_path / "t1.nii").write_bytes(plain())
    (tmp_path / "seg.nii").write_bytes(plain(np.full(SHAPE, np.nan, np.float32)))
    with pytest.raises(InputError, match="seg.nii: holds no label"):
        read_case(VolumeCase("c", "p", "a", {"t1": tmp_path / "t1.nii"}, tmp_path / "seg.nii"))
    (tmp_path / "t1.nii").write_bytes(plain(ball() * 1e200))
    with pytest.raises(InputError, match="t1 has voxels of about .*e.202, as no scan has"):
        slices_of(read_case(VolumeCase("c", "p", "a", {"t1": tmp_path / "t1.nii"})))


def test_a_grade_against_its_folder_and_a_case_without_one(tmp_path):
    tree(tmp_path, {"c0": "HGG/{0}/{0}_{1}.nii", "c1": "LGG/{0}/{0}_{1}.nii"})
    (tmp_path / "labels.csv").write_text("case_id,label\nc0,LGG\nc1,LGG\n")
    with pytest.raises(InputError, match="case c0 lies in HGG, and labels.csv calls it LGG"):
        brats_cases(tmp_path)
    (tmp_path / "labels.csv").write_text("case_id,label\nc0,\nc1,wild type\n")
    found = brats_cases(tmp_path)
    assert [case.id for case in found.cases] == ["c1"] and found.left_out == {
        "c0": "no grade is given for it in labels.csv"
    }


@pytest.mark.parametrize(
    "name, message",
    [
        ("x.hdr", "x.hdr is in Analyze format, which is not read; convert it to .nii.gz, for instance with SimpleITK"),
        ("x.mgz", "x.mgz is in FreeSurfer format, which is not read; convert it .* with mri_convert"),
        ("x.dcm", "x.dcm is a DICOM file; give a manifest with one column per modality"),
        ("IM0001", "IM0001 is a DICOM file; give a manifest .* that names the folder of each series"),
        ("1.2.840.1", "1.2.840.1 is a DICOM file; .* or convert it to .nii.gz with dcm2niix"),
    ],
)
def test_other_formats_are_named(tmp_path, name, message):
    (tmp_path / "HGG" / "c0").mkdir(parents=True)
    (tmp_path / "HGG" / "c0" / name).write_bytes(bytes(128) + b"DICM" + bytes(100))
    assert holds_scans(tmp_path)
    with pytest.raises(InputError, match=message):
        brats_cases(tmp_path)
    tree(tmp_path, {"c1": "LGG/{0}/{0}_{1}.nii"})
    assert re.search(message, brats_cases(tmp_path).left_out["c0"])
    (tmp_path / "view.png").write_bytes(b"")
    assert holds_scans(tmp_path)  # scans and pictures: the scans count


def test_pictures_are_no_scans(tmp_path):
    (tmp_path / "patch.png").write_bytes(b"")
    (tmp_path / "notes.dcm").write_bytes(b"")
    assert not holds_scans(tmp_path)
