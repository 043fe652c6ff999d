"""The explore notebooks on a fresh clone: opened, run from top to bottom, their controls moved."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.special import softmax

from . import lab as labs
from .conftest import ROOT

pytestmark = pytest.mark.usefixtures("at_the_project")


@pytest.fixture
def at_the_project(lab, monkeypatch):
    "Let this process read runs in the project's folder."
    monkeypatch.chdir(lab.root / "clone")


@pytest.fixture(scope="session")
def examples(lab, table):
    "The small runs that the notebooks train where there are none."
    folders = {}
    for kind in ("volumes", "patches"):
        begun = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", f"from mil_workbench.workflows.explore import make_example; make_example({kind!r})"],
            cwd=lab.root / "clone",
            check=True,
        )
        table(f"small run on {kind}, trained on a fresh clone, s", seconds=time.monotonic() - begun)
    return folders


def opened(lab, name):
    from mil_workbench.workflows.finished import open_run

    return open_run(lab.root / "clone" / "papermill_runs" / "example" / name)


def viewer_of(lab, page, notebook, place=0):
    lab.open(page, f"clone/lab/explore/{notebook}.ipynb")
    lab.run_all(page)
    shown = page.locator(".mil-viewer").nth(place)
    shown.wait_for()
    return shown


def test_selector_temperature(lab, page, examples):
    viewer = viewer_of(lab, page, "selector_temperature")
    run = opened(lab, "brain")
    box = viewer.get_by_label("temperature, as a number")
    for case in (run.cases("test")[0], run.cases("validation")[0]):
        viewer.get_by_label("case", exact=True).select_option(case)
        viewer.get_by_text(f"{case}, truth").wait_for()
        box.fill("0.3")
        box.press("Enter")
        weights = softmax(logits_in_file(run, case) / 0.3)
        shown = viewer.locator(".mil-selector-figures").inner_text()
        largest, instance = re.search(r"largest weight\s+(\S+)\s+instance (\d+)", shown).groups()
        np.testing.assert_allclose(float(largest), weights.max(), rtol=2e-3)
        assert int(instance) == weights.argmax() + 1


def logits_in_file(run, case):
    "The scores of `case` as the run's own file has them, or for validation as its model gives them."
    import h5py

    with h5py.File(run.folder / "attention.h5") as file:
        if case in file["test"]:
            return file["test"][case]["scores"][:, 0].astype(float)
    from mil_workbench.training.prediction import predict

    return predict(run.model, [run.bag(case)]).instances[0]["scores"][:, 0].astype(float)


def test_attention_overlays(lab, page, examples):
    overlay = viewer_of(lab, page, "attention_overlays")
    assert page.locator(".mil-viewer").count() == 3 and page.locator(".mil-message:visible").count() == 0
    run = opened(lab, "brain")
    case = run.cases()[0]
    from mil_workbench.training.prediction import read_case_attention

    selection = read_case_attention(run.folder / "attention.h5", "test", case)["selection"][:, 0]
    overlay.get_by_role("button", name=re.compile("critical instance")).click()
    text = overlay.inner_text()
    assert f"image {selection.argmax() + 1} of {len(selection)}" in text
    assert f"weight {float(f'{selection.max():.4g}'):.4g}" in text

    beside = page.get_by_label("beside it")
    assert beside.locator("option:checked").inner_text() == "nothing"
    beside.select_option(label="epoch 1 (validation cases)")
    overlay.get_by_text("its weights at single epochs are not kept; choose a validation case").wait_for()
    assert overlay.locator(".mil-pane canvas").first.is_visible(), "the run's own weights stay"
    truth, probability = (
        run.classes[run.bag(case).label],
        run.predictions.set_index("case_id").loc[case, f"probability_{run.classes[1]}"],
    )
    overlay.get_by_text(
        f"test case; probability of {run.classes[1]} {probability:.2f}; truth {truth}", exact=True
    ).wait_for()
    overlay.get_by_label("case", exact=True).select_option(run.cases("validation")[0])
    overlay.get_by_text("example/brain, epoch 1: selection weight", exact=True).wait_for()
    overlay.get_by_text(f"example/brain, epoch {run.kept + 1}, kept: selection weight", exact=True).wait_for()
    assert (
        overlay.locator(".mil-about")
        .nth(1)
        .inner_text()
        .startswith("validation case; its probability at this epoch was not kept; truth ")
    )

    moles = opened(lab, "moles")
    case = moles.cases()[0]
    arrays = read_case_attention(moles.folder / "attention.h5", "test", case)
    slide = page.locator(".mil-viewer").nth(2)
    for stain, weight in zip(moles.bag(case).levels[1].groups, arrays["case"]):
        assert re.search(rf"{re.escape(stain)}: {float(f'{weight:.2g}'):.2g}", slide.inner_text()), (
            stain,
            weight,
            slide.inner_text(),
        )
    heading = slide.locator(".mil-heading").inner_text()
    assert re.fullmatch(
        rf"{case}, truth \w+: probability of {moles.classes[1]} \d\.\d\d, test case of example/moles", heading
    ), heading

    save(page)
    check_reopened(lab, page)


def save(page):
    "Save the notebook as a person does, and wait until it is on the disk."
    page.locator(".jp-Cell").first.click()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty, .lm-mod-dirty").first.wait_for(state="detached")


def check_reopened(lab, page):
    "Check that saving leaves the clone as git has it, and that figures stand in the widgets' place without a kernel."
    clone = lab.root / "clone"
    text = (clone / "lab" / "explore" / "attention_overlays.ipynb").read_text()
    assert text.count('"image/png"') == 3, "the copy keeps its figures"
    assert subprocess.run(["git", "-C", clone, "status", "--porcelain"], capture_output=True, text=True).stdout == ""
    lab.end_kernels()
    lab.open(page, "clone/lab/explore/attention_overlays.ipynb")
    pictures = page.locator(".jp-OutputArea img")
    pictures.nth(2).wait_for()
    assert all(
        picture.is_visible() and picture.evaluate("image => image.naturalWidth") > 500 for picture in pictures.all()
    )
    assert page.get_by_text("This needs a running kernel: choose Run → Run All Cells in the menu.").first.is_visible()
    assert page.get_by_text("model not found").filter(visible=True).count() == 0
    page.screenshot(path=lab.root / "reopened.png")


def test_an_original_keeps_no_picture_and_says_so(lab, page, examples):
    notebook = lab.root / "clone" / "nbs" / "explore" / "run_browser.ipynb"
    before = notebook.read_bytes()
    lab.open(page, "clone/nbs/explore/run_browser.ipynb")
    lab.run_all(page)
    page.get_by_text("This notebook is tracked by git, so no picture is kept in it").wait_for()
    save(page)
    assert "image/png" not in notebook.read_text()
    notebook.write_bytes(before)


def test_run_browser(lab, page, examples):
    browser = viewer_of(lab, page, "run_browser")
    run = opened(lab, "brain")
    metrics = json.loads((run.folder / "metrics.json").read_text())
    row = browser.get_by_role("row").filter(has_text="brain")
    assert f"{metrics['test']['auroc']:.3f}" in row.inner_text()
    row.get_by_role("button", name=re.compile("open", re.IGNORECASE)).click()
    page.get_by_text(f"{run.cases()[0]}, truth").first.wait_for()
    assert page.locator(".mil-viewer").count() == 3  # the table, the overlay and the selector


def test_behind_a_path_prefix_and_without_any_network_but_the_server(lab, chromium, examples, tmp_path):
    prefixed = labs.Lab(lab.root, tmp_path / "home", prefix="/node/q1234/8888/")
    context = chromium.new_context()
    asked = []
    try:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        context.route(lambda url: not url.startswith((prefixed.url, "blob:", "data:")), lambda route: route.abort())
        for notebook, n in (("attention_overlays", 3), ("selector_temperature", 1), ("run_browser", 1)):
            viewer_of(prefixed, page, notebook)
            page.wait_for_timeout(1000)
            assert page.locator(".mil-viewer").count() == n and page.locator(".mil-message:visible").count() == 0
            canvases = page.locator(".mil-viewer canvas")
            assert canvases.count() > 0
            prefixed.end_kernels()
        outside = [url for url in asked if not url.startswith((prefixed.url, "blob:", "data:"))]
        assert not outside
    finally:
        context.close()
        prefixed.close()


@pytest.mark.parametrize("notebook", ["attention_overlays", "selector_temperature", "run_browser", "gradient_flow"])
def test_without_a_browser_there_are_figures(lab, examples, tmp_path, notebook):
    command = [
        sys.executable,
        "-m",
        "papermill",
        ROOT / "nbs" / "explore" / f"{notebook}.ipynb",
        tmp_path / "out.ipynb",
        "--cwd",
        lab.root / "clone",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [
        out for cell in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for out in cell.get("outputs", [])
    ]
    expected = {"attention_overlays": 3}.get(notebook, 1)
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= expected
