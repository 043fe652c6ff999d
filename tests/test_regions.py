"""Slides with a column roi, and limits on sections and patches: from a manifest to a cohort."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mil_workbench.data.limits import SectionChoice
from mil_workbench.data.named_cohorts import load_cohort
from mil_workbench.data.patches import PatchSettings
from mil_workbench.data.stain_phantoms import draw_section, phantom_sections, write_patch_folder, write_slide
from mil_workbench.files import InputError

SIDE = 576  # of a phantom's slide, pixels of 1 µm


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    "A folder of eight slides."
    folder = tmp_path_factory.mktemp("pictures")
    for i, section in enumerate([each for each in phantom_sections(12, seed=2) if each.stain == "h&e"][:8]):
        write_slide(folder / f"{i}.tif", draw_section(section)[0])
    return folder


@pytest.fixture
def slides(tmp_path, pictures):
    "A manifest of four cases with two sections each, whose regions are the left half, given in four ways."
    rows = []
    for i in range(8):
        shutil.copy(pictures / f"{i}.tif", tmp_path)
        case = f"c{i // 2}"
        rows.append(
            {"case_id": case, "patient_id": case, "label": "ab"[i // 2 % 2], "file": f"{i}.tif", "section": str(i)}
        )
    left = [[0, 0], [SIDE / 2, 0], [SIDE / 2, SIDE], [0, SIDE], [0, 0]]
    geometry = {"type": "Polygon", "coordinates": [left]}
    annotation = {"type": "Feature", "properties": {"classification": {"name": "Tumor"}}, "geometry": geometry}
    (tmp_path / "left.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [annotation]}))
    (tmp_path / "far.geojson").write_text(
        json.dumps({"type": "Polygon", "coordinates": [[[900, 0], [990, 0], [990, 90], [900, 0]]]})
    )
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 1
    Image.fromarray(mask).save(tmp_path / "left.png")
    table = pd.DataFrame(rows)
    table["roi"] = [
        "left.geojson",
        "left.png",
        "",
        "left.geojson",
        "far.geojson",
        "left.png",
        "gone.geojson",
        "left.png",
    ]
    table.to_csv(tmp_path / "cases.csv", index=False)
    return tmp_path / "cases.csv"


def load(path, **options):
    patches = PatchSettings(size=96, um_per_pixel=1.0, per_section=options.pop("per_section", None))
    return load_cohort(str(path), store_folder=path.parent / "store", patches=patches, positive_class="b", **options)


def test_regions_restrict_slides_and_faults_leave_out_one_section(slides, capsys):
    cohort = load(slides)
    reasons = pd.read_csv(slides.parent / "store" / "left_out.csv").set_index("name").reason
    assert "its region" in reasons["c3/tissue/6"] and "correct the column roi" in reasons["c3/tissue/6"]
    assert "give the region of this slide, in pixels of its full size" in reasons["c2/tissue/4"]
    assert [len(bag.levels[0].groups) for bag in cohort.bags] == [2, 2, 1, 1]
    for bag in cohort.bags:
        sizes = bag.levels[0].sizes.tolist()
        for name, coords in zip(bag.levels[0].groups, bag.coords.split(sizes)):
            inside = coords[:, 0] < SIDE / 2
            assert inside.all() == (name != "2"), name
    polygons, mask = cohort.bags[0].coords.split(cohort.bags[0].levels[0].sizes.tolist())
    assert len(polygons) and len(mask)
    assert "18 tiles outside the region left.geojson" in set(reasons)


def test_a_region_in_another_scale_leaves_out_its_section(slides):
    corner = [[[0, 0], [120, 0], [120, 100], [0, 100], [0, 0]]]  # glass: the left half in pixels of a smaller level
    (slides.parent / "left.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": corner}))
    load(slides)
    reasons = pd.read_csv(slides.parent / "store" / "left_out.csv").set_index("name").reason
    assert "there is no tissue in it, but elsewhere on its slide" in reasons["c0/tissue/0"]


def test_classes_of_regions(slides):
    with_class = load(slides, choice=SectionChoice(roi_classes=("Tumor",)))
    reasons = pd.read_csv(slides.parent / "store" / "left_out.csv").set_index("name").reason
    assert "roi_classes names Tumor; its values are 1" in reasons["c0/tissue/1"]
    assert [len(bag.levels[0].groups) for bag in with_class.bags] == [1, 2]


def test_patches_have_no_region(slides, tmp_path):
    write_patch_folder(tmp_path / "patches", phantom_sections(1))
    table = pd.read_csv(slides, dtype=str).assign(file="patches")[:1]
    table.to_csv(tmp_path / "folders.csv", index=False)
    with pytest.raises(
        InputError, match="folders.csv, line 2: a roi is a region of a slide, and .*patches is a folder"
    ):
        load(tmp_path / "folders.csv")


def test_limits_are_drawn_alike_and_told(slides):
    table = pd.read_csv(slides, dtype=str).drop(columns="roi")
    table.to_csv(slides, index=False)
    every = load(slides, per_section=10)
    capped = load(slides, per_section=10, choice=SectionChoice(per_stain=1))
    assert [bag.levels[0].groups for bag in load(slides, per_section=10, choice=SectionChoice(per_stain=1)).bags] == [
        bag.levels[0].groups for bag in capped.bags
    ]
    assert [len(bag.levels[0].groups) for bag in capped.bags] == [1, 1, 1, 1]
    shown = capped.limits_table()
    assert shown.loc["sections_per_stain 1"].tolist() == ["8 sections", "4", "4 of 4 stains of cases"]
    n = sum(len(bag) for bag in load(slides).bags)
    assert every.limits_table().loc["patches_per_section 10", "there are"] == f"{n} patches"
    assert every.limits_table().loc["patches_per_section 10", "used"] == str(sum(len(bag) for bag in every.bags))
