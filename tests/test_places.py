"""Features and the slides behind them: to the pixel in every tool's layout, and each fault in one line."""

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from mil_workbench.data.features import write_features
from mil_workbench.data.manifests import cohort_from_manifest
from mil_workbench.data.patches import PatchSettings
from mil_workbench.data.slides import cohort_from_slides
from mil_workbench.files import InputError

RNG = np.random.default_rng(0)
WIDTH, HEIGHT, LAYOUTS = 3000, 2500, ("clam", "trident", "stamp")
TRIDENT = {"patch_size": 224, "patch_size_level0": 448, "level0_magnification": 40, "overlap": 0}


def write_pyramid(path, um_per_pixel=0.2527, size=(HEIGHT, WIDTH)):
    "Write a slide with tissue in its middle as a pyramid of three levels."
    picture = np.full((*size, 3), 245, np.uint8)
    picture[300:-200, 300:-200] = RNG.normal((190, 120, 170), 22, (size[0] - 500, size[1] - 500, 3)).clip(0, 255)
    options = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    if um_per_pixel:
        options |= {"resolution": (1e4 / um_per_pixel,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        file.write(picture, subifds=0, **options)
        for step in (2, 4):
            file.write(picture[::step, ::step], subfiletype=1, tile=(256, 256), photometric="rgb", metadata=None)


def write_table(folder, name="m.csv", **columns):
    n = len(columns["file"])
    cases = {"case_id": [f"c{i}" for i in range(n)], "patient_id": [f"p{i}" for i in range(n)]}
    table = pd.DataFrame({**cases, "label": (["a", "b"] * n)[:n], **columns})
    table.to_csv(folder / name, index=False)
    return folder / name


def write_h5(path, coords, on_file=(), on_coords=()):
    with h5py.File(path, "w") as file:
        file["features"] = RNG.normal(size=(len(coords), 8)).astype(np.float16)
        file["coords"] = coords
        file.attrs.update(dict(on_file))
        file["coords"].attrs.update(dict(on_coords))


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    "Two pyramids and the cohort of their patches."
    folder = tmp_path_factory.mktemp("slides")
    for name in ("s0.tif", "s1.tif"):
        write_pyramid(folder / name)
    table = write_table(folder, "slides.csv", file=["s0.tif", "s1.tif"])
    return folder, cohort_from_slides(table, folder / "patches", PatchSettings(112, 0.5, None), n_workers=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("said_by", ["slide", "manifest", "both", "file alone"])
def test_features_that_were_written_lie_on_the_pixels_of_the_slide_cohort(layout, said_by, slides, tmp_path):
    folder, of_slides = slides
    for bag in of_slides.bags:
        corners, resolution = bag.instances.source.corners(bag.instances.rows)
        write_features(
            tmp_path / f"{bag.id}.h5",
            layout=layout,
            features=RNG.normal(size=(len(bag), 8)).astype(np.float16),
            corners=corners,
            patch_size=112,
            um_per_pixel=0.5,
            slide_um_per_pixel=resolution,
            encoder="resnet18",
        )
    columns = {"file": ["c0.h5", "c1.h5"]}
    if said_by in ("slide", "both"):
        columns["slide"] = [folder / "s0.tif", folder / "s1.tif"]
    if said_by in ("manifest", "both"):
        columns["um_per_pixel"] = [resolution, resolution]
    cohort = cohort_from_manifest(write_table(tmp_path, **columns), tmp_path / "store")
    assert cohort.note == "" and not list((tmp_path / "store").glob("*.instances.npy"))
    for bag, other in zip(cohort.bags, of_slides.bags):
        places = other.instances.source.store.read(other.instances.rows).numpy()
        assert bag.unit == "um" and len(np.unique(places[:, 3])) == 1
        tolerance = 1e-3 if layout == "stamp" else 0  # STAMP's corners are float32
        np.testing.assert_allclose(bag.coords / resolution, places[:, 1:3], atol=tolerance, rtol=1e-12)
        assert np.array_equal((bag.coords / resolution).round(), places[:, 1:3])
        assert np.array_equal((bag.sides / resolution).round(), places[:, 3])
        assert (bag.behind is not None) == ("slide" in columns)
        if bag.behind is not None:
            section, corners, side = bag.behind.source.on_slide(bag.behind.rows)
            assert np.array_equal(corners, places[:, 1:3]) and side == places[0, 3]
            assert section.files == other.instances.source.sections[f"{bag.id}/tissue/{section.name}"].files
            size = torch.nn.functional.interpolate(bag.behind[:3].read().float(), (112, 112), mode="area")
            assert (size - other.instances[:3].read().float()).abs().mean() < 12  # the same tissue, in less detail


def cohort_of(folder, **columns):
    return cohort_from_manifest(write_table(folder, **columns), folder / "store")


GRID = np.stack(np.divmod(np.arange(12), 4), 1) * 448 + 300


def test_real_layouts_of_coordinates(tmp_path):
    write_h5(tmp_path / "clam.h5", GRID, on_coords={"patch_size": 112, "patch_level": 1, "downsample": (4.0, 4.0)})
    write_h5(tmp_path / "trident.h5", GRID, on_coords=TRIDENT)
    write_h5(tmp_path / "stamp.h5", GRID * 0.25, on_file={"unit": "um", "tile_size_um": 112.0, "tile_size_px": 224})
    write_h5(tmp_path / "bare.h5", GRID)
    files = [f"{name}.h5" for name in ("clam", "trident", "stamp", "bare")]
    told = cohort_of(tmp_path, file=files, um_per_pixel=["0.25"] * 4)
    assert [bag.unit for bag in told.bags] == ["um"] * 4 and told.note == ""
    for bag in told.bags:
        assert np.array_equal(bag.coords, GRID * 0.25)
        assert (bag.sides is None) == (bag.id == "c3") and (bag.sides is None or (bag.sides == 112).all())
    plain = cohort_of(tmp_path, file=files)
    assert [bag.unit for bag in plain.bags] == ["pixel", "pixel", "um", ""]
    assert np.array_equal(plain.bags[3].coords, GRID) and plain.bags[1].sides[0] == 448
    assert "The coordinates of 2 of 4 files (clam.h5, ...) are in pixels of the full slide" in plain.note
    assert "The coordinates of 1 of 4 files (bare.h5) are in a unit that is not known" in plain.note
    assert "in pixels of the full slide in 2 (c0) and in µm in 1 (c2) and in a unit that is not known" in plain.note


def test_sampled_bags_keep_sides_and_slides(slides, tmp_path):
    from mil_workbench.data.sampling import BagDataset

    folder, _ = slides
    for i in range(2):
        write_h5(tmp_path / f"{i}.h5", GRID, on_coords=TRIDENT)
    cohort = cohort_of(tmp_path, file=["0.h5", "1.h5"], slide=[folder / "s0.tif", folder / "s1.tif"])
    sampled = BagDataset(cohort.bags, bag_size=5)[1]
    assert len(sampled.sides) == len(sampled.behind) == 5
    _, corners, _ = sampled.behind.source.on_slide(sampled.behind.rows)
    assert np.array_equal(corners, GRID[sampled.index])


@pytest.mark.parametrize(
    ("columns", "words", "is_shown"),
    [
        ({"slide": ["gone.tif", "s1.tif"]}, "line 2: the slide is not shown (", [False, True]),
        ({"slide": ["broken.tif", "s1.tif"]}, "cannot be read as a slide", [False, True]),
        ({"slide": ["folder", "s1.tif"]}, "line 2: the slide is not shown (", [False, True]),
        ({"slide": ["small.tif", "s1.tif"]}, "small.tif is not shown: 6 of 12 patches of ", [False, True]),
        ({"slide": ["s1.tif", "s1.tif"]}, "line 3: ", [False, False]),
        ({"slide": ["s0.tif", "../slides_here/s0.tif"]}, "is also the slide of case c0 (line 2)", [False, False]),
        ({"slide": ["", "s1.tif"]}, "", [False, True]),
        ({"slide": ["s0.tif", "s1.tif"], "um_per_pixel": ["0.5", "0.25"]}, "about 0.25 µm per pixel", [True, True]),
    ],
    ids=lambda value: "" if isinstance(value, list) else str(value)[:40],
)
def test_a_fault_of_a_slide_is_one_line_and_the_features_stay(columns, words, is_shown, tmp_path):
    here = tmp_path / "slides_here"
    here.mkdir()
    for name in ("s0.tif", "s1.tif"):
        write_pyramid(here / name)
    write_pyramid(here / "small.tif", size=(1300, 2600))
    (here / "broken.tif").write_bytes((here / "s0.tif").read_bytes()[:3000])
    (here / "folder").mkdir()
    for i in range(2):
        write_h5(here / f"{i}.h5", GRID, on_coords=TRIDENT)
    cohort = cohort_of(here, file=["0.h5", "1.h5"], **columns)
    assert words in cohort.note and "\n" not in cohort.note
    assert [bag.behind is not None for bag in cohort.bags] == is_shown
    assert [len(bag) for bag in cohort.bags] == [12, 12] and cohort.bags[0].instances.read().shape == (12, 8)
    again = cohort_from_manifest(here / "m.csv", here / "store")
    assert again.note == cohort.note


def test_statements_that_contradict_each_other_are_named(tmp_path):
    write_h5(tmp_path / "0.h5", GRID, on_coords={**TRIDENT, "um_per_pixel_level0": 0.5})
    write_h5(tmp_path / "1.h5", GRID, on_coords=TRIDENT)
    cohort = cohort_of(tmp_path, file=["0.h5", "1.h5"], um_per_pixel=["0.25", "0.26"])
    assert f"{tmp_path}/0.h5 says 0.5 µm per pixel of the full slide, but m.csv, line 2 0.25; correct" in cohort.note
    assert [bag.unit for bag in cohort.bags] == ["pixel", "um"]
    with pytest.raises(InputError, match="m.csv, line 3: um_per_pixel 9000 is not a number from 0.02 to 50"):
        cohort_of(tmp_path, file=["0.h5", "1.h5"], um_per_pixel=["0.25", "9000"])


@pytest.mark.parametrize("value", ["wide", -1.0, 0, np.nan, [], "é" * 300, b"\xff\xfe", h5py.Empty("f8")], ids=str)
def test_attributes_that_make_no_sense_are_named(value, tmp_path):
    for i in range(2):
        write_h5(tmp_path / f"{i}.h5", GRID, on_coords={**TRIDENT, "patch_size_level0": value})
    cohort = cohort_of(tmp_path, file=["0.h5", "1.h5"])
    assert f"{tmp_path}/0.h5: its attribute patch_size_level0 is " in cohort.note and "(1 more like it)" in cohort.note
    assert cohort.bags[0].sides is None and cohort.bags[0].unit == "pixel" and len(cohort.note) < 800


def test_unknown_places_and_other_dimensions(slides, tmp_path):
    folder, _ = slides
    write_h5(tmp_path / "0.h5", np.where(np.arange(12)[:, None] == 3, np.nan, GRID), on_coords=TRIDENT)
    write_h5(tmp_path / "1.h5", np.pad(GRID, ((0, 0), (0, 1))), on_coords=TRIDENT)
    slide = [folder / "s0.tif", folder / "s1.tif"]
    cohort = cohort_of(tmp_path, file=["0.h5", "1.h5"], slide=slide, um_per_pixel=["0.25", "0.25"])
    assert "the places of 1 of 12 instances of " in cohort.note
    assert [bag.behind for bag in cohort.bags] == [None, None]
    assert [bag.unit for bag in cohort.bags] == ["um", ""]


def test_a_slide_that_was_mended_is_looked_at_again(tmp_path):
    for i in range(2):
        write_h5(tmp_path / f"{i}.h5", GRID, on_coords=TRIDENT)
    (tmp_path / "s.tif").write_bytes(b"nothing")
    columns = {"file": ["0.h5", "1.h5"], "slide": ["s.tif", ""]}
    assert cohort_of(tmp_path, **columns).bags[0].behind is None
    write_pyramid(tmp_path / "s.tif")
    assert cohort_of(tmp_path, **columns).bags[0].behind is not None
    write_h5(tmp_path / "0.h5", GRID, on_coords={**TRIDENT, "level0_width": 90_000, "level0_height": 70_000})
    cohort = cohort_of(tmp_path, **columns)
    assert "0.h5 is of a slide of 90000 by 70000 pixels, and it has 3000 by 2500" in cohort.note
    assert cohort.bags[0].behind is None
