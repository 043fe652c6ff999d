"""The overlay in JupyterLab, driven by mouse and keyboard and compared with what numpy and matplotlib say."""

import re

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import Normalize
from playwright.sync_api import Page, expect

from .lab import Lab, go_through_cases, write_notebook

N, SIDE, ZOOM = 20, 48, 8  # images, pixels, page pixels per pixel

CASES = """
import numpy as np
from mil_workbench.viewers.overlay import Attention, OverlayCase, OverlayViewer
given = dict(np.load("overlay.npz"))
first, second = Attention("run A", given["by_image"]), Attention("run B", given["by_pixel"])
odd = "<b>$x_1$</b> {שלום} \\"😀\\""
seen = Attention("run " + odd, given["by_image"], "TRAINING CASE; truth " + odd, True)


def case_of(*attention, images=given["images"], **more):
    names = tuple(f"slice at {i} mm" for i in range(len(images)))
    return OverlayCase(lambda channel: images[:, channel], ("t1", "flair"), attention, names=names, **more)


cases = {
    "one": case_of(second, masks=given["masks"]),
    "two": case_of(first, second),
    odd: case_of(first, seen, title=odd),
    "alone": case_of(first, nothing_beside="epoch 3 of " + odd + " is not kept"),
    "diverged": case_of(Attention("run C", np.full(20, np.nan))),
    "features only": case_of(first, images=given["images"][:0]),
}
viewer = OverlayViewer(list(cases), cases.get)
"""

LARGE = """
import numpy as np
from mil_workbench.viewers.overlay import Attention, OverlayCase, OverlayViewer
z, y, x = np.ogrid[:155, :240, :240]
is_brain = ((z - 77) / 70) ** 2 + ((y - 120) / 100) ** 2 + ((x - 120) / 80) ** 2 < 1
is_lesion = ((z - 90) / 25) ** 2 + ((y - 150) / 30) ** 2 + ((x - 90) / 30) ** 2 < 1
grey = np.random.default_rng(0).integers(40, 200, is_brain.shape, np.uint8) * is_brain


def load(case):
    images = grey.copy()
    images[:, 0] = int(case)
    weights = np.random.default_rng(int(case)).dirichlet(np.ones(155))
    return OverlayCase(lambda channel: images, ("t1",), (Attention("run A", weights),), masks=is_lesion)


viewer = OverlayViewer([str(i) for i in range(101)], load)
"""


@pytest.fixture(scope="module")
def given(lab: Lab) -> dict[str, np.ndarray]:
    "What the viewer is given, and what the tests compute with."
    rng = np.random.default_rng(0)
    masks = np.zeros((N, SIDE, SIDE), np.uint8)
    masks[8:12, 10:20, 30:40] = 1
    arrays = {
        "images": rng.integers(0, 256, (N, 2, SIDE, SIDE), np.uint8),
        "by_image": rng.dirichlet(np.ones(N)),
        "by_pixel": (rng.random((N, SIDE, SIDE)) * rng.random((N, 1, 1))).astype(np.float32),
        "masks": masks,
    }
    np.savez(lab.root / "overlay.npz", **arrays)
    return arrays


def open_viewer(lab: Lab, page: Page, given: dict, case: str) -> None:
    "Open a notebook with the viewer and choose `case`."
    write_notebook(lab.root / "overlay.ipynb", CASES, "viewer")
    lab.open(page, "overlay.ipynb")
    lab.run_all(page)
    page.locator(".mil-viewer").scroll_into_view_if_needed()
    choose(page, "case", case)
    whole(page)


def whole(page: Page) -> None:
    "Wait until the case has come with all its images."
    expect(page.locator(".mil-body")).to_have_attribute("aria-busy", "false")


def choose(page: Page, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).select_option(value)


def slide(page: Page, label: str, value: float) -> None:
    page.get_by_label(label, exact=True).fill(str(value))


def picture(page: Page, pane: int = 0):
    return page.locator(".mil-pane").nth(pane).locator("canvas").first


def point_at(page: Page, row: int, column: int, pane: int = 0) -> None:
    picture(page, pane).hover(position={"x": (column + 0.5) * ZOOM, "y": (row + 0.5) * ZOOM})


def colour_at(page: Page, row: float, column: float, pane: int = 0) -> np.ndarray:
    "What the canvas shows in the middle of a pixel."
    read = (
        "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(x * canvas.width, y * canvas.height, 1, 1).data]"
    )
    return np.array(picture(page, pane).evaluate(read, [(column + 0.5) / SIDE, (row + 0.5) / SIDE])[:3])


def blended(grey: int, weight: float, full: float, colours: str, opacity: float) -> np.ndarray:
    "The colour of a weight, by matplotlib, laid over a grey value."
    colour = np.array(matplotlib.colormaps[colours](Normalize(0, full)(weight), bytes=True)[:3], float)
    return (1 - opacity) * grey + opacity * colour


def words(page: Page) -> str:
    return page.locator(".mil-readout").inner_text()


def shown_image(page: Page) -> int:
    return int(re.search(r"image (\d+) of 20", words(page))[1]) - 1


def test_colours_and_words_are_those_of_numpy_and_matplotlib(lab: Lab, page: Page, given: dict) -> None:
    open_viewer(lab, page, given, "one")
    choose(page, "channel", "flair")
    whole(page)
    expect(page.locator(".mil-readout")).to_contain_text("image")
    weights, grey = given["by_pixel"], given["images"][:, 1]
    slide(page, "image", 4)
    for row, column in ((0, 0), (47, 47), (13, 29)):
        point_at(page, row, column)
        readout = re.search(
            r"row (\d+), column (\d+): flair grey value (\d+), weight ([\d.e-]+), not in the lesion", words(page)
        )
        assert [int(number) for number in readout.groups()[:3]] == [row + 1, column + 1, grey[4, row, column]]
        assert float(readout[4]) == pytest.approx(float(weights[4, row, column]), rel=1e-3)
    page.mouse.move(0, 0)  # so that no pixel is marked
    for scaling, full in (("case", weights.max()), ("image", weights[4].max())):
        choose(page, "scaling", scaling)
        assert f"Full colour stands for {float(f'{full:.4g}')}" in page.locator(".mil-full").inner_text()
        for colours, opacity, threshold in (("viridis", 0.5, 0), ("magma", 0.8, 0.3), ("cividis", 1, 0.05)):
            choose(page, "colours", colours)
            slide(page, "opacity", opacity)
            slide(page, "threshold", threshold)
            for row, column in np.random.default_rng(1).integers(0, SIDE, (12, 2)):
                weight = float(weights[4, row, column])
                shown = opacity if weight / full >= threshold else 0
                assert (
                    np.abs(
                        colour_at(page, row, column) - blended(grey[4, row, column], weight, full, colours, shown)
                    ).max()
                    <= 1
                )


def test_lesion_is_outlined_and_named(lab: Lab, page: Page, given: dict) -> None:
    open_viewer(lab, page, given, "one")
    slide(page, "image", 9)
    slide(page, "opacity", 0)
    assert "shows the lesion" in words(page)
    point_at(page, 15, 35)
    assert words(page).endswith(", in the lesion")
    page.mouse.move(0, 0)
    border = (14, 29.5)  # the edge between columns 29 and 30
    assert np.abs(colour_at(page, *border) - (0xE6, 0x86, 0x2A)).max() <= 1
    page.get_by_label("lesion outline").uncheck()
    red, green, blue = colour_at(page, *border)
    assert red == green == blue
    slide(page, "image", 3)
    assert "no lesion" in words(page)


def test_keys_wheel_and_strip_go_through_the_images(lab: Lab, page: Page, given: dict) -> None:
    open_viewer(lab, page, given, "one")
    critical = int(given["by_pixel"].max((1, 2)).argmax())
    expect(page.locator(".mil-readout")).to_contain_text(
        f"image {critical + 1} of 20"
    )  # a case opens where the model looked
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    picture(page).click()
    for key, to in (
        ("Home", 0),
        ("ArrowDown", 1),
        ("ArrowRight", 2),
        ("ArrowUp", 1),
        ("PageDown", 11),
        ("End", 19),
        ("ArrowDown", 19),
        ("c", critical),
    ):
        page.keyboard.press(key)
        assert shown_image(page) == to, key
    page.keyboard.press("v")  # pastes a cell that was copied with c, where JupyterLab hears it
    assert page.locator(".jp-Notebook .jp-Cell").count() == cells and picture(page).evaluate(
        "canvas => canvas === document.activeElement"
    )
    page.keyboard.press("Home")
    page.mouse.wheel(0, 100)
    page.mouse.wheel(0, 100)
    expect(page.locator(".mil-readout")).to_contain_text("slice at 2 mm, image 3 of 20")
    strip = page.locator(".mil-strip")
    strip.click(position={"x": strip.bounding_box()["width"] * 7.5 / N, "y": 40})
    assert shown_image(page) == 7
    page.get_by_role("button", name="critical instance").click()
    assert shown_image(page) == critical
    picture(page).focus()
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    assert (
        f"row {SIDE // 2 + 1}, column {SIDE // 2}: "
        f"t1 grey value {given['images'][critical, 0, SIDE // 2, SIDE // 2 - 1]}," in words(page)
    )


def test_two_attentions_scroll_together(lab: Lab, page: Page, given: dict) -> None:
    open_viewer(lab, page, given, "two")
    expect(page.locator(".mil-pane")).to_have_count(2)
    zoom = picture(page).bounding_box()["width"] / SIDE
    picture(page, 1).hover(position={"x": 5.5 * zoom, "y": 6.5 * zoom})
    for image, turn in ((0, None), (1, 100), (2, 100), (1, -100)):
        page.mouse.wheel(0, turn) if turn else slide(page, "image", image)
        expect(page.locator(".mil-readout")).to_contain_text(f"image {image + 1} of 20")
        readout = re.search(
            r"row 7, column 6: t1 grey value (\d+), weight ([\d.e-]+) \(run A\), ([\d.e-]+) \(run B\)", words(page)
        )
        assert int(readout[1]) == given["images"][image, 0, 6, 5]
        assert [float(readout[2]), float(readout[3])] == pytest.approx(
            [given["by_image"][image], given["by_pixel"][image, 6, 5]], rel=1e-3
        )
        for pane, weight, full in (
            (0, given["by_image"][image], given["by_image"].max()),
            (1, given["by_pixel"][image, 30, 31], given["by_pixel"].max()),
        ):
            expected = blended(given["images"][image, 0, 30, 31], float(weight), float(full), "viridis", 0.5)
            assert np.abs(colour_at(page, 30, 31, pane) - expected).max() <= 1
    page.get_by_role("button", name="critical instance").nth(1).click()
    assert shown_image(page) == int(given["by_pixel"].max((1, 2)).argmax())
    page.keyboard.press("Tab")
    picture(page, 0).focus()
    page.keyboard.press("c")
    assert shown_image(page) == int(given["by_image"].argmax())


def test_a_pane_says_that_its_run_was_trained_on_the_case_and_any_text_is_text(
    lab: Lab, page: Page, given: dict
) -> None:
    odd = '<b>$x_1$</b> {שלום} "😀"'
    open_viewer(lab, page, given, odd)
    expect(page.locator(".mil-heading")).to_have_text(odd)
    facts = page.locator(".mil-about")
    expect(facts).to_have_text(["", f"TRAINING CASE; truth {odd}"])
    expect(page.locator(".mil-pane-head b").nth(1)).to_have_text(f"run {odd}")
    colours = [
        fact.evaluate("fact => getComputedStyle(fact).color.match(/[0-9]+/g).map(Number)") for fact in facts.all()
    ]
    red, green, blue = colours[1][:3]
    assert red > green + 80 and red > blue + 80 and colours[0] != colours[1]
    choose(page, "case", "alone")
    expect(page.locator(".mil-nothing-beside")).to_have_text(f"epoch 3 of {odd} is not kept")
    expect(page.locator(".mil-pane")).to_have_count(1)
    assert picture(page).is_visible()
    choose(page, "case", "two")
    expect(page.locator(".mil-nothing-beside")).to_have_count(0)


def test_what_cannot_be_shown_is_a_sentence(lab: Lab, page: Page, given: dict) -> None:
    open_viewer(lab, page, given, "diverged")
    for case, sentence in (
        ("diverged", "case diverged: attention 'run C' is not a number at image 1 of 20"),
        ("features only", "case features only has no images; choose a cohort with images"),
    ):
        choose(page, "case", case)
        expect(page.locator(".mil-message")).to_contain_text(sentence)
        expect(page.locator(".mil-body")).to_be_hidden()
    page.get_by_role("button", name="next case").click()
    expect(page.locator(".mil-body")).to_be_visible()
    expect(page.locator(".mil-message")).to_be_hidden()


SCROLL = """async () => {
    const input = document.querySelector("input[aria-label=image]");
    const canvases = [...document.querySelectorAll(".mil-pane canvas")];
    const empty = document.createElement("canvas");
    [empty.width, empty.height] = [canvases[0].width, canvases[0].height];
    const drawn = (canvas) => canvas.getContext("2d").getImageData(0, 0, 1, 1);
    const took = { scroll: [], empty: [] };
    for (let turn = 0; turn < 320; turn++) {
        let start = performance.now();
        input.value = turn % 155;
        input.dispatchEvent(new Event("input", { bubbles: true }));
        canvases.forEach(drawn);
        took.scroll.push(performance.now() - start);
        start = performance.now();
        empty.getContext("2d").clearRect(0, 0, empty.width, empty.height);
        drawn(empty);
        took.empty.push(performance.now() - start);
        if (turn % 10 === 0) await new Promise((go) => setTimeout(go));
    }
    return took;
}"""


def measure(lab: Lab, page: Page) -> dict[str, float]:
    "Measure scrolling and opening cases of 155 slices of 240 × 240 (ms), and the kernel's growth in 100 cases (MB)."
    write_notebook(lab.root / "large.ipynb", LARGE, "viewer")
    lab.open(page, "large.ipynb")
    lab.run_all(page)
    expect(page.locator(".mil-heading")).to_have_text("0")
    opening, grown = go_through_cases(lab, page, 100, rest=20)
    took = page.evaluate(SCROLL)
    kinds = {"scroll": took["scroll"][10:], "empty canvas": took["empty"][10:], "next case": opening}
    return {
        f"{kind}, {name}": round(float(np.percentile(times, q)), 2)
        for kind, times in kinds.items()
        for name, q in (("median", 50), ("p95", 95))
    } | {"grown by": round(grown, 1)}


@pytest.mark.slow  # opening a case is close to its bound on two cores
@pytest.mark.alone
def test_it_is_quick_and_keeps_no_case(lab: Lab, page: Page, table) -> None:
    row = measure(lab, page)
    table("overlay, 155 slices of 240 by 240, ms; growth of Python over 100 cases, MB", **row)
    assert row["scroll, median"] <= 8 and row["scroll, p95"] <= 16, row
    assert row["next case, p95"] <= 300, row
    assert row["grown by"] < 50, row
