"""Scans as groups bring them: DICOM series, MetaImage, NRRD, BIDS, BraTS of every year, cases without a modality."""

import locale
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLossless, MRImageStorage, RLELossless, generate_uid

from mil_workbench.data.brats import brats_cases
from mil_workbench.data.itk_scans import same_locale
from mil_workbench.data.named_cohorts import cohort_kind, load_cohort, scan_of
from mil_workbench.data.scans import VolumeCase, read_case, read_volume
from mil_workbench.data.slices import SliceSettings
from mil_workbench.data.volumes import case_key, volume_cases
from mil_workbench.files import InputError
from mil_workbench.models.encoders import Encoder

SHAPE = (20, 24, 16)
SPACING = (1.5, 2.0, 3.0)
RAS = np.diag([-1.0, -1, 1, 1])  # from the coordinates of DICOM and ITK
HALF = np.sqrt(0.5)
ORIENTATIONS = {
    "axial": [[1, 0, 0], [0, 1, 0]],
    "sagittal": [[0, 1, 0], [0, 0, -1]],
    "coronal": [[1, 0, 0], [0, 0, -1]],
    "oblique": [[HALF, HALF, 0], [-0.5, 0.5, HALF]],
}


def brain(seed: int = 0) -> np.ndarray:  # (X, Y, Z)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.6
    return np.where(inside, np.random.default_rng(seed).normal(500, 80, SHAPE), 0).clip(0).astype(np.int16)


def affine_in_lps(orientation: list, step: float) -> np.ndarray:
    along_row, along_column = np.array(orientation, float)
    affine = np.eye(4)
    affine[:3, :3] = np.stack(
        [along_row * SPACING[0], along_column * SPACING[1], np.cross(along_row, along_column) * step], 1
    )
    affine[:3, 3] = (-30, 12.5, 40)
    return affine


def write_nifti(path: Path, data: np.ndarray, lps: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, RAS @ lps), path)
    return path


def write_dicom(folder: Path, data: np.ndarray, lps: np.ndarray, syntax=ExplicitVRLittleEndian, **tags) -> Path:
    "One file per slice, as a scanner writes them: a row of a file is a column of the volume's first axis."
    folder.mkdir(parents=True, exist_ok=True)
    orientation = (lps[:3, :2] / SPACING[:2]).T.ravel()
    for number in range(data.shape[2]):
        meta, header = FileMetaDataset(), Dataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
        meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = generate_uid()
        header.file_meta, header.SOPClassUID, header.Modality = meta, MRImageStorage, "MR"
        header.SeriesInstanceUID, header.SamplesPerPixel = "1.2.3", 1
        header.PhotometricInterpretation, header.InstanceNumber = "MONOCHROME2", number + 1
        header.Columns, header.Rows = data.shape[:2]
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.ImagePositionPatient = [f"{value:.10g}" for value in lps @ [0, 0, number, 1]][:3]
        header.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        header.PixelSpacing = [SPACING[1], SPACING[0]]
        header.PixelData = np.ascontiguousarray(data[:, :, number].T).tobytes()
        for name, value in tags.items():
            setattr(header, name, value)
        if syntax == RLELossless:
            header.compress(RLELossless)
        elif syntax != ExplicitVRLittleEndian:
            meta.TransferSyntaxUID, header.PixelData = syntax, pydicom.encaps.encapsulate([b"\xff\x4f not an image"])
        header.save_as(folder / f"MR.{generate_uid()}", enforce_file_format=True)  # names in no order
    return folder


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("step", [3.0, -3.0])
@pytest.mark.parametrize("scale", [None, (0.37, -12.5)])
def test_dicom_is_the_nifti_of_the_same_data(tmp_path, orientation, step, scale):
    lps = affine_in_lps(ORIENTATIONS[orientation], step)
    tags = {"RescaleSlope": scale[0], "RescaleIntercept": scale[1]} if scale else {}
    series = write_dicom(tmp_path / "series", brain(), lps, **tags)
    values = brain() if scale is None else brain() * scale[0] + scale[1]
    file = write_nifti(tmp_path / "scan.nii.gz", values, lps)
    ours, theirs = read_volume(series), read_volume(file)
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-4)
    volume = read_case(VolumeCase("c", "p", "a", {"t1": series, "t2": file}))  # they share one grid
    assert volume.channels["t1"].shape == volume.channels["t2"].shape


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("name", ["scan.mha", "scan.mhd", "scan.nrrd", "scan.nhdr", "SCAN.MHA"])
def test_metaimage_and_nrrd_are_the_nifti_of_the_same_data(tmp_path, orientation, name):
    lps = affine_in_lps(ORIENTATIONS[orientation], 3.0)
    image = sitk.GetImageFromArray(brain().transpose(2, 1, 0))
    image.SetSpacing(SPACING)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / SPACING).ravel().tolist())
    sitk.WriteImage(image, tmp_path / name.lower(), useCompression=True)
    if name != name.lower():
        (tmp_path / name.lower()).rename(tmp_path / name)
    data, affine = read_volume(tmp_path / name)
    its_data, its_affine = read_volume(write_nifti(tmp_path / "scan.nii", brain(), lps))
    np.testing.assert_array_equal(data, its_data)
    np.testing.assert_allclose(affine, its_affine, atol=1e-4)


def test_compressed_dicom(tmp_path):
    lps = affine_in_lps(ORIENTATIONS["axial"], 3.0)
    plain = read_volume(write_dicom(tmp_path / "plain", brain(), lps))
    packed = read_volume(write_dicom(tmp_path / "rle", brain(), lps, syntax=RLELossless))
    np.testing.assert_array_equal(plain[0], packed[0])
    (tmp_path / "jpeg").mkdir()
    for path in (tmp_path / "plain").iterdir():
        reader, writer = sitk.ImageFileReader(), sitk.ImageFileWriter()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        image = reader.Execute()
        for key in reader.GetMetaDataKeys():
            image.SetMetaData(key, reader.GetMetaData(key))
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG2000")
        writer.SetFileName(str(tmp_path / "jpeg" / f"{path.name}.dcm"))
        with same_locale():
            writer.Execute(image)
    syntaxes = {pydicom.dcmread(path).file_meta.TransferSyntaxUID.name for path in (tmp_path / "jpeg").iterdir()}
    assert syntaxes == {"JPEG 2000 Image Compression (Lossless Only)"}
    np.testing.assert_array_equal(plain[0], read_volume(tmp_path / "jpeg")[0])
    write_dicom(tmp_path / "later", brain(), lps, syntax=HTJ2KLossless)
    before = locale.getencoding()  # of text files, which GDCM changes
    with pytest.raises(InputError, match="pixels cannot be decoded .* High-Throughput JPEG 2000") as refusal:
        read_volume(tmp_path / "later")
    assert "\n" not in str(refusal.value) and locale.getencoding() == before


def write_manifest(folder: Path, rows: list[str], columns: str = "t1,flair,site") -> Path:
    (folder / "m.csv").write_text(f"case_id,patient_id,label,{columns}\n" + "\n".join(rows) + "\n")
    return folder / "m.csv"


def test_a_cohort_of_all_formats_and_what_is_refused_in_it(tmp_path):
    lps = affine_in_lps(ORIENTATIONS["axial"], 3.0)
    rows = []
    for number in range(4):
        flair = write_nifti(tmp_path / f"c{number}/flair.nii.gz", brain(10 + number), lps)
        image = sitk.GetImageFromArray(brain(number).transpose(2, 1, 0))
        image.SetSpacing(SPACING)
        image.SetOrigin(lps[:3, 3].tolist())
        write_nifti(tmp_path / f"c{number}/nifti/t1.nii", brain(number), lps)
        sitk.WriteImage(image, tmp_path / f"c{number}/t1.nrrd")
        write_dicom(tmp_path / f"c{number}/t1", brain(number), lps)
        t1 = ["t1", "t1.nrrd", "t1", "t1.nrrd"][number]
        rows.append(f"c{number},p{number},{'ab'[number % 2]},c{number}/{t1},c{number}/{flair.name},c{number}")
    bad = {
        "two": ["two series", lambda place: write_dicom(place, brain(), lps, SeriesInstanceUID="9.9")],
        "gap": ["gap of 6.00 mm", lambda place: sorted(place.iterdir(), key=height)[5].unlink()],
        "empty": ["without a DICOM file", lambda place: [path.unlink() for path in place.iterdir()]],
        "above": ["holds no DICOM file itself, but inner", lambda place: place.rename(tmp_path / "x")],
    }

    def height(path: Path) -> float:
        return float(pydicom.dcmread(path).ImagePositionPatient[2])

    for name, (_, spoil) in bad.items():
        place = write_dicom(tmp_path / name, brain(), lps)
        spoil(place)
        if name == "above":
            place.mkdir()
            (tmp_path / "x").rename(place / "inner")
        rows.append(f"{name},{name},a,{name},c0/flair.nii.gz,c0")
    manifest = write_manifest(tmp_path, rows)
    assert cohort_kind(str(manifest)) == "volumes"
    settings = SliceSettings(size=32)
    cohort = load_cohort(str(manifest), tmp_path / "store", slices=settings)
    assert [bag.id for bag in cohort.bags] == ["c0", "c1", "c2", "c3"]
    assert cohort.channels == ("t1", "flair") and cohort.bags[2].columns == {"site": "c2"}
    assert "4 of 8 cases are left out" in cohort.note and all(name in cohort.note for name in bad)
    plain = write_manifest(
        tmp_path, [row.replace(row.split(",")[3], f"c{i}/nifti/t1.nii", 1) for i, row in enumerate(rows[:4])]
    )
    same = load_cohort(str(plain), tmp_path / "store of NIfTI", slices=settings)
    for ours, theirs in zip(cohort.bags, same.bags):
        assert torch.equal(ours.instances.read(), theirs.instances.read())
        torch.testing.assert_close(ours.coords, theirs.coords, atol=1e-4, rtol=0)
    manifest = write_manifest(tmp_path, rows)
    np.testing.assert_array_equal(scan_of(str(manifest), "c0").channels["t1"], scan_of(str(plain), "c0").channels["t1"])
    keys = {case.id: case_key(case, settings) for case in volume_cases(manifest).cases if case.id in ("c0", "c1")}
    next((tmp_path / "c0/t1").iterdir()).touch()
    changed = {case.id: case_key(case, settings) for case in volume_cases(manifest).cases if case.id in keys}
    assert keys["c0"] != changed["c0"] and keys["c1"] == changed["c1"]


def write_bids(folder: Path, missing: dict[str, str]) -> Path:
    lps = affine_in_lps(ORIENTATIONS["axial"], 3.0)
    for number in range(6):
        for session in ("ses-a", "ses-b"):
            name = f"sub-{number}_{session}"
            for suffix in ("T1w", "ce-gd_T1w", "FLAIR"):
                if missing.get(name) != suffix:
                    write_nifti(folder / f"sub-{number}/{session}/anat/{name}_{suffix}.nii.gz", brain(number), lps)
    (folder / "dataset_description.json").write_text("{}")
    (folder / "participants.tsv").write_text(
        "participant_id\tage\tdiagnosis\n" + "".join(f"sub-{n}\t{50 + n}\t{'ab'[n % 2]}\n" for n in range(6))
    )
    write_nifti(folder / "derivatives/x/sub-0/anat/sub-0_T1w.nii.gz", brain(), lps)
    (folder / "sub-0/ses-a/anat/sub-0_ses-a_T1w.json").write_text("{}")
    return folder


def test_bids_with_and_without_a_modality(tmp_path, capsys):
    root = write_bids(tmp_path / "dataset", {"sub-3_ses-a": "FLAIR"})
    assert cohort_kind(str(root)) == "volumes"
    cohort = load_cohort(str(root), tmp_path / "store", slices=SliceSettings(size=32))
    assert len(cohort.bags) == 11 and cohort.cases.patient_id.nunique() == 6
    assert cohort.channels == ("FLAIR", "T1w", "T1w_ce-gd") and cohort.bags[0].columns == {"age": "50"}
    assert "1 of 12 cases are left out: sub-3_ses-a" in cohort.note
    assert "no FLAIR in sub-3_ses-a" in capsys.readouterr().out
    zero = SliceSettings(size=32, missing_modality="zero")
    cohort = load_cohort(str(root), tmp_path / "store of zeros", slices=zero)
    assert cohort.channels == ("FLAIR", "T1w", "T1w_ce-gd", "has FLAIR") and len(cohort.bags) == 12
    assert "1 of 12 cases have no FLAIR: sub-3_ses-a." in cohort.note
    means = {bag.id: bag.instances.read().float().mean((0, 2, 3)) for bag in cohort.bags}
    assert means["sub-3_ses-a"][[0, 3]].tolist() == [0, 0] and means["sub-0_ses-a"][3] == 255
    frozen = Encoder("efficientnet_lite0", 4, weights="imagenet", train=False, n_flags=1)
    features = frozen(cohort.pick(["sub-3_ses-a"])[0].instances.read())
    assert features.shape[1] == 321 and (features[:, -1] == 0).all()
    complete = write_bids(tmp_path / "complete", {})
    same = load_cohort(str(complete), tmp_path / "store of all", slices=zero)
    assert same.channels == ("FLAIR", "T1w", "T1w_ce-gd")
    judged = load_cohort(str(complete), tmp_path / "store judged", slices=zero, channels=cohort.channels)
    assert judged.channels == cohort.channels
    assert list(scan_of(str(root), "sub-3_ses-a").channels) == ["T1w", "T1w_ce-gd"]


@pytest.mark.parametrize(
    "pattern, endings, patient",
    [
        ("HGG/Brats18_CBICA_{}_1/Brats18_CBICA_{}_1_{{}}.nii.gz", "t1 t1ce t2 flair seg", None),
        ("a/LGG/BraTS19_TCIA10_{}_1/BraTS19_TCIA10_{}_1_{{}}.nii", "t1 t1ce t2 flair seg", None),
        ("BraTS20_Training_00{}/BraTS20_Training_00{}_{{}}.nii", "t1 t1ce t2 flair seg", None),
        ("Training/BraTS2021_0000{}_{{}}.nii.gz", "t1 t1ce t2 flair seg", None),
        ("BraTS-GLI-0000{}-100/BraTS-GLI-0000{}-100-{{}}.nii.gz", "t1n t1c t2w t2f seg", "BraTS-GLI-0000{}"),
        ("flat/BraTS-MET-0000{}-000-{{}}.nii.gz", "t1n t1c t2w t2f seg", "BraTS-MET-0000{}"),
        ("BRATS-PED-0000{}-000/BRATS-PED-0000{}-000-{{}}.NII.GZ", "T1N T1C T2W T2F SEG", "BRATS-PED-0000{}"),
        ("{}/{}-{{}}.mha", "t1n t1c t2w t2f seg", None),
    ],
)
def test_brats_of_every_year(tmp_path, pattern, endings, patient):
    names, mapping = [], ["Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID"]
    for number in (1, 2, 3):
        for ending in endings.split():
            path = tmp_path / pattern.format(number, number).format(ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        names.append(path.name.rsplit("_" if "_t" in pattern or "_{{" in pattern else "-", 1)[0])
        mapping.append(f"{'HGG' if number < 3 else 'LGG'},NA,{names[-1]}")
    if "GG/" not in pattern:
        place = tmp_path / pattern.split("/")[0] if pattern.startswith(("Training", "flat")) else tmp_path
        (place / "name_mapping.csv").write_text("\n".join(mapping) + "\n")
    found = brats_cases(tmp_path)
    assert [case.id for case in found.cases] == names and not found.left_out
    assert all(len(case.modalities) == 4 and case.segmentation for case in found.cases)
    assert [case.patient_id for case in found.cases] == [
        patient.format(number) if patient else name for number, name in zip((1, 2, 3), names)
    ]


def test_a_modality_twice_names_case_and_both_files(tmp_path):
    for name in ("c1/c1_t1.nii", "c1/c1_t1ce.nii.gz", "c1/c1_t1c.nii", "c1/c1_t2.nii", "c1/c1_flair.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    shutil.copytree(tmp_path / "c1", tmp_path / "c2")
    for path in (tmp_path / "c2").iterdir():
        path.rename(path.with_name(path.name.replace("c1", "c2")))
    (tmp_path / "c2/c2_t1c.nii").unlink()
    (tmp_path / "labels.csv").write_text("case_id,label\nc1,a\nc2,b\n")
    found = brats_cases(tmp_path, may_lack=True)
    assert [case.id for case in found.cases] == ["c2"]
    assert "c1_t1c.nii and c1_t1ce.nii.gz" in found.left_out["c1"]


def test_keys_and_stores_of_before_stay():
    assert SliceSettings("axial", 96).key() == {"axis": "axial", "size": 96}
    assert SliceSettings().store_ending() == "axial-96"
    corrected = SliceSettings(bias_correction="n4", missing_modality="zero")
    assert corrected.store_ending() == "axial-96-zero-n4" and "bias_correction" in corrected.key()
