"""The volume viewer in JupyterLab: what NiiVue paints, compared voxel by voxel with numpy and matplotlib."""

import io
import re

import matplotlib
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from .lab import Lab, go_through_cases, write_notebook

SHAPE = (40, 56, 32)
ORANGE = (230, 134, 42)

CASES = """
import numpy as np
from mil_workbench.viewers.volume import VolumeScene, VolumeViewer
given = dict(np.load("volume.npz"))
scan, affine = given["scan"], given["affine"]
cases = {
    "blocks": VolumeScene(scan, affine, given["weights"]),
    "lesion": VolumeScene(scan, affine, 0 * given["weights"], given["lesion"]),
    "diverged": VolumeScene(scan, affine, given["weights"] * np.nan),
}
viewer = VolumeViewer(list(cases), cases.get, opacity=1.0)
"""

MANY = """
import numpy as np
from mil_workbench.viewers.volume import VolumeScene, VolumeViewer
is_brain = np.sum((np.indices((76, 76, 60)) - np.array([38, 38, 30])[:, None, None, None]) ** 2, 0) < 28**2


def load(case):
    attention = np.zeros(is_brain.shape)
    attention[:, :, 10 + int(case) % 50] = 1 + int(case)
    return VolumeScene((is_brain * (100 + int(case))).astype(np.int16), np.diag([2, 2, 2, 1.0]), attention, is_brain)


viewer = VolumeViewer([str(i) for i in range(101)], load)
"""


@pytest.fixture(scope="module")
def given(lab: Lab) -> dict[str, np.ndarray]:
    "A scan that is the same from no two sides, and weights that are even in blocks of 8 voxels."
    rng = np.random.default_rng(0)
    scan = np.full(SHAPE, 100, np.int16)
    scan[30:] = 140
    weights = np.repeat(np.repeat(np.repeat(rng.random((5, 7, 4)) * (rng.random((5, 7, 4)) < 0.7), 8, 0), 8, 1), 8, 2)
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[24:36, 30:44, 10:22] = 1
    affine = np.diag([2.0, 1.5, 3.0, 1.0])
    affine[:3, 3] = (-40, -30, 7)
    arrays = {"scan": scan, "weights": weights, "lesion": lesion, "affine": affine}
    np.savez(lab.root / "volume.npz", **arrays)
    return arrays


def open_viewer(lab: Lab, page: Page, case: str) -> None:
    "Open a notebook with the viewer and choose `case`."
    write_notebook(lab.root / "volume.ipynb", CASES, "viewer")
    lab.open(page, "volume.ipynb")
    lab.run_all(page)
    canvas(page).scroll_into_view_if_needed()
    page.get_by_label("case", exact=True).select_option(case)
    settle(page)


def canvas(page: Page):
    return page.locator(".mil-volume canvas")


def settle(page: Page) -> None:
    "Wait until NiiVue's picture stays as it is."
    before = None
    for _ in range(600):
        page.wait_for_timeout(400)
        now = picture(page)
        if before is not None and np.array_equal(before, now) and now.max() > 60:
            return
        before = now
    raise AssertionError("the picture did not come to rest")


def picture(page: Page) -> np.ndarray:  # (H, W, 3)
    return np.asarray(Image.open(io.BytesIO(canvas(page).screenshot())).convert("RGB")).astype(int)


def click(page: Page, row: int, column: int) -> tuple[int, int, int]:
    "Click on a place of the canvas; the voxel that NiiVue then reports."
    before = reading(page)
    canvas(page).click(position={"x": float(column), "y": float(row)})
    for _ in range(50):
        page.wait_for_timeout(100)
        if reading(page) != before:
            break
    return voxel_of(reading(page))


def reading(page: Page) -> str:
    return page.locator(".mil-readout").inner_text()


def voxel_of(words: str) -> tuple[int, int, int]:
    return tuple(int(place) for place in re.search(r"voxel \((\d+), (\d+), (\d+)\)", words).groups())


def even_places(shown: np.ndarray, n: int) -> list[tuple[int, int]]:
    "Return places in the axial plane (the left third) around which all is one colour, neither crosshair nor ground."
    places, rng = [], np.random.default_rng(0)
    while len(places) < n:
        row, column = int(rng.integers(4, shown.shape[0] - 4)), int(rng.integers(4, shown.shape[1] // 3))
        around = shown[row - 4 : row + 5, column - 4 : column + 5].reshape(-1, 3)
        if np.ptp(around, 0).max() <= 2 and around.max() > 20 and (row, column) not in places:
            places.append((row, column))
    return places


def is_grey(colour: np.ndarray) -> bool:
    return np.ptp(colour) <= 2


def test_each_voxel_has_the_colour_of_its_weight(lab: Lab, page: Page, given: dict) -> None:
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    open_viewer(lab, page, "blocks")
    weights = given["weights"]
    voxel = voxel_of(reading(page))
    assert weights[voxel] == weights.max()  # where the crosshair begins
    shown = picture(page)
    page.get_by_label("threshold", exact=True).fill("0.5")
    settle(page)
    above = picture(page)
    page.get_by_label("colours", exact=True).select_option("magma")
    settle(page)
    in_magma = picture(page)
    page.get_by_label("attention", exact=True).uncheck()
    settle(page)
    without = picture(page)
    kinds = set()
    for row, column in even_places(shown, 12):
        x, y, z = click(page, row, column)
        assert z == voxel[2]
        assert f"scan {given['scan'][x, y, z]}, weight {weights[x, y, z]:.4g}" in reading(page)
        share = weights[x, y, z] / weights.max()
        for picked, colours, threshold in ((shown, "viridis", 0), (above, "viridis", 0.5), (in_magma, "magma", 0.5)):
            is_painted = share > threshold
            kinds.add((threshold, bool(is_painted)))
            if is_painted:
                expected = 255 * np.array(matplotlib.colormaps[colours](share)[:3])
                assert np.abs(picked[row, column] - expected).max() < 16, (
                    share,
                    colours,
                )  # NiiVue's maps are matplotlib's at four to six points
            else:
                assert is_grey(picked[row, column]), (share, colours, row, column, (x, y, z))
        assert is_grey(without[row, column])
        low, high = np.percentile(given["scan"], (2, 98))
        assert (
            abs(without[row, column].mean() - 255 * (given["scan"][x, y, z] - low) / (high - low)) < 16
        )  # windowed as the figure is
    assert len(kinds) == 4
    page.get_by_role("button", name="largest").click()
    expect(page.locator(".mil-readout")).to_contain_text(f"voxel {voxel}")
    assert [url for url in asked if not url.startswith((lab.url, "blob:", "data:"))] == []


def test_left_is_left_and_up_is_up(lab: Lab, page: Page, given: dict) -> None:
    open_viewer(lab, page, "lesion")
    shown = picture(page)
    is_orange = np.abs(shown - ORANGE).max(-1) < 12
    rows, columns = np.nonzero(is_orange[:, : shown.shape[1] // 3])
    assert len(rows) > 50
    middle = (int(rows.min() + rows.max()) // 2, int(columns.min() + columns.max()) // 2)
    x, y, z = click(page, *middle)
    assert "in the lesion" in reading(page) and "not in" not in reading(page)
    assert abs(x - 29.5) <= 2 and abs(y - 36.5) <= 2  # the middle of the lesion, which is to the right and in front
    right = click(page, middle[0], middle[1] + 20)
    assert right[0] > x and right[1:] == (y, z)
    front = click(page, middle[0] - 20, middle[1])
    assert front[1] > y and front[0] == x
    page.get_by_label("lesion", exact=True).uncheck()
    settle(page)
    assert not (np.abs(picture(page) - ORANGE).max(-1) < 12).any()
    assert page.locator(".mil-full").first.inner_text().startswith("Full colour stands for 0")


def test_keys_of_niivue_are_not_those_of_jupyterlab(lab: Lab, page: Page, given: dict) -> None:
    open_viewer(lab, page, "lesion")
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    x, y, z = click(page, 180, 140)
    page.keyboard.press("l")
    expect(page.locator(".mil-readout")).to_contain_text(f"voxel {(x + 1, y, z)}")
    page.keyboard.press("j")
    expect(page.locator(".mil-readout")).to_contain_text(f"voxel {(x + 1, y - 1, z)}")
    page.keyboard.press("c")
    page.keyboard.press("v")
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells


def test_what_cannot_be_shown_is_a_sentence(lab: Lab, page: Page, given: dict) -> None:
    open_viewer(lab, page, "blocks")
    page.get_by_label("case", exact=True).select_option("diverged")
    expect(page.locator(".mil-message")).to_contain_text("case diverged: its attention is not a number somewhere")
    expect(page.locator(".mil-body")).to_be_hidden()
    page.get_by_role("button", name="previous case").click()
    expect(page.locator(".mil-heading")).to_have_text("lesion")
    settle(page)


def measure(lab: Lab, page: Page) -> dict[str, float]:
    "Measure the growth of the kernel in 100 cases of more than 1 MB, and the time of a step of the threshold (ms)."
    write_notebook(lab.root / "volumes.ipynb", MANY, "viewer")
    lab.open(page, "volumes.ipynb")
    lab.run_all(page)
    canvas(page).scroll_into_view_if_needed()
    settle(page)
    _, grown = go_through_cases(lab, page, 100, rest=200)
    expect(page.locator(".mil-heading")).to_have_text("100")
    settle(page)
    assert voxel_of(reading(page))[2] == 10 and f"scan {200}," in reading(page)  # of the last case
    steps = """() => {
        const input = document.querySelector("input[aria-label=threshold]");
        return Array.from({ length: 40 }, (_, i) => {
            const start = performance.now();
            input.value = i / 40;
            input.dispatchEvent(new Event("input", { bubbles: true }));
            return performance.now() - start;
        });
    }"""
    took = page.evaluate(steps)
    return {
        "grown by": round(grown, 1),
        "threshold, median": round(float(np.median(took)), 2),
        "threshold, p95": round(float(np.percentile(took, 95)), 2),
    }


@pytest.mark.slow  # without a graphics card a hundred volumes take minutes to draw
@pytest.mark.alone
def test_it_keeps_no_case(lab: Lab, page: Page, table) -> None:
    row = measure(lab, page)
    table("volume: growth of Python over 100 cases, MB; threshold, ms", **row)
    assert row["grown by"] < 50, row
