"""The table of runs in JupyterLab: sorted, filtered, chosen and opened by mouse and keyboard."""

import json
import os
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Page, expect

from mil_workbench.record.run_parameters import write_parameters

from .lab import write_notebook

ROWS = ".mil-runs-scroll tbody tr:visible"


def write_run(folder: Path, written: float, test: float | None, reason: str = "", **parameters) -> pd.DataFrame:
    "A run as training leaves it, or broken off; its history comes back."
    folder.mkdir(parents=True)
    common = {"cohort": "musk1", "model": "abmil", "fold": 0, "seed": 0, "max_instances": None}
    write_parameters(folder, common | parameters)
    epochs = np.arange(12)
    history = pd.DataFrame(
        {
            "epoch": epochs,
            "train_loss": 0.7 / (1 + epochs),
            "validation_cross_entropy": 0.5 + np.cos(epochs + written) / 7,
            "seconds": 2.0,
        }
    )
    history.to_csv(folder / "history.csv", index=False)
    attempt = {
        "attempt": 1,
        "state": "failed" if reason else "finished",
        "reason": reason,
        "host": "node",
        "process": 1,
    }
    (folder / "attempt.json").write_text(json.dumps(attempt))
    if test is not None:
        (folder / "metrics.json").write_text(
            json.dumps({"protocol": "train_validation_test", "test": {"auroc": test}, "validation": {"auroc": 0.75}})
        )
    for path in folder.iterdir():
        os.utime(path, (written, written))
    return history


@pytest.fixture
def runs(lab, tmp_path):
    "Three runs of two studies and a study that cannot be read; their histories; a notebook that shows them."
    folder = tmp_path / "papermill_runs"
    histories = {
        "lr/fold2": write_run(folder / "lr" / "fold2", 1.7e9, 0.912345, fold=2, lr=0.001),
        "lr/fold10": write_run(folder / "lr" / "fold10", 1.7e9 + 600, 0.85, fold=10, lr=0.0001),
        "big/first": write_run(
            folder / "big" / "first", 1.7e9 + 300, None, "CUDA out of memory", model="dual_stream", max_instances=500
        ),
    }
    (folder / "torn" / "submitted" / "1").mkdir(parents=True)
    (folder / "torn" / "submitted" / "1" / "tasks.jsonl").write_text("torn")
    notebook = f"{tmp_path.name}.ipynb"  # one of its own: a notebook that changes while it is open brings up a dialogue
    write_notebook(
        lab.root / notebook,
        "from pathlib import Path\nfrom mil_workbench.viewers.runs import RunBrowser\n"
        f"browser = RunBrowser(Path({str(folder)!r}))\nbrowser",
        "import ipywidgets\nlabel = ipywidgets.Label('nothing opened')\n"
        "browser.on_open(lambda folder: setattr(label, 'value', f'opened {folder}'))\nlabel",
    )
    return folder, histories, notebook


def column(page: Page, name: str) -> list[str]:
    return page.locator(f"{ROWS} [data-name='{name}']").all_inner_texts()


def header(page: Page, title: str):
    return page.get_by_role("columnheader", name=title, exact=True)


def test_the_table_sorts_and_filters_as_pandas_does(lab, page, runs):
    _, _, notebook = runs
    lab.open(page, notebook)
    lab.run_all(page)
    expect(page.locator(ROWS)).to_have_count(4)
    assert column(page, "run") == ["fold10", "first", "fold2", ""], "newest first, and what has no time last"
    assert column(page, "test.auroc") == ["0.850", "", "0.912", ""]
    assert column(page, "lr") == ["0.0001", "", "0.001", ""] and column(page, "max_instances") == ["", "500", "", ""]
    assert column(page, "reason")[1] == "CUDA out of memory" and "line 1 is not a task" in column(page, "reason")[3]
    assert column(page, "written")[:3] == [
        datetime.fromtimestamp(1.7e9 + after).strftime("%Y-%m-%d %H:%M") for after in (600, 300, 0)
    ]
    expect(header(page, "last written")).to_have_attribute("aria-sort", "descending")

    header(page, "run").get_by_role("button").click()
    assert column(page, "run") == ["", "first", "fold2", "fold10"], "numbers in names count as numbers"
    expect(header(page, "run")).to_have_attribute("aria-sort", "ascending")
    header(page, "test AUROC").get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert column(page, "test.auroc") == ["0.912", "0.850", "", ""]
    page.keyboard.press("Enter")
    assert column(page, "test.auroc") == ["0.850", "0.912", "", ""], "what has no value stays last"
    expect(header(page, "test AUROC")).to_have_attribute("aria-sort", "ascending")

    page.get_by_label("filter: words that all must occur").fill("FINISHED musk1 abmil")
    assert column(page, "run") == ["fold10", "fold2"]
    expect(page.locator(".mil-controls [role=status]")).to_have_text("2 of 4 runs")
    page.get_by_label("filter: words that all must occur").fill("lr=0.001")
    assert column(page, "run") == ["fold2"]
    page.get_by_label("filter: words that all must occur").fill("no such run")
    expect(page.locator(".mil-controls [role=status]")).to_have_text("none of 4 runs matches")
    page.get_by_label("filter: words that all must occur").fill("")
    page.get_by_label("state", exact=True).select_option("failed")
    assert column(page, "run") == ["first"]
    page.get_by_label("state", exact=True).select_option("")
    page.get_by_label("study", exact=True).select_option("lr")
    assert column(page, "run") == ["fold10", "fold2"]
    assert header(page, "max_instances").count() == 0 and header(page, "lr").count() == 1, (
        "only what differs within the study"
    )


def test_curves_are_drawn_of_the_chosen_runs(lab, page, runs):
    _, histories, notebook = runs
    lab.open(page, notebook)
    lab.run_all(page)
    canvas, readout = page.locator(".mil-runs-curves canvas"), page.locator(".mil-runs-curves [role=status]")
    expect(canvas).to_be_hidden()
    page.get_by_label("curves of lr/fold2").check()
    page.get_by_label("curves of big/first").focus()
    page.keyboard.press("Space")
    expect(page.locator(".mil-runs-legend [role=listitem]")).to_have_count(2)
    for quantity, label in (("validation_cross_entropy", "validation cross entropy"), ("train_loss", "train loss")):
        page.get_by_label("quantity").select_option(quantity)
        values_at = lambda epoch: "; ".join(
            f"{key} {float(f'{histories[key][quantity][epoch]:.4g}'):g}" for key in ("lr/fold2", "big/first")
        )
        canvas.focus()
        page.keyboard.press("Home")
        expect(readout).to_have_text(f"{label}, epoch 1: {values_at(0)}")
        page.keyboard.press("ArrowRight")
        expect(readout).to_have_text(f"{label}, epoch 2: {values_at(1)}")
        page.keyboard.press("End")
        expect(readout).to_have_text(f"{label}, epoch 12: {values_at(11)}")

    low, high = (
        float(extreme([histories[key].train_loss for key in ("lr/fold2", "big/first")])) for extreme in (np.min, np.max)
    )
    room = 0.06 * (high - low)
    x = 62 + 4 / 11 * (canvas.bounding_box()["width"] - 62 - 12)
    y = 280 - 38 - (histories["big/first"].train_loss[4] - low + room) / (high - low + 2 * room) * (280 - 38 - 10)
    canvas.hover(position={"x": x, "y": y})
    expect(readout).to_contain_text("epoch 5:")
    colour = canvas.evaluate(
        """(canvas, [x, y]) => {
          const scale = devicePixelRatio;
          return [...canvas.getContext('2d').getImageData(x * scale, y * scale, 1, 1).data];
        }""",
        [x, y],
    )
    assert colour[:3] == [0xD5, 0x5E, 0x00], "the second run's dot lies where its value is, on top of the first's"

    page.get_by_label("take away the curve of lr/fold2").click()
    expect(page.locator(".mil-runs-legend [role=listitem]")).to_have_count(1)
    expect(page.get_by_label("curves of lr/fold2")).not_to_be_checked()


def test_a_run_is_opened_and_a_new_one_appears(lab, page, runs):
    folder, _, notebook = runs
    lab.open(page, notebook)
    lab.run_all(page)
    page.get_by_label("open lr/fold10").click()
    expect(page.get_by_text(f"opened {folder}/lr/fold10")).to_be_visible()
    expect(page.locator(f"{ROWS}[aria-current=true] th")).to_have_text("fold10")
    page.get_by_label("filter: words that all must occur").fill("fold1")
    write_run(folder / "lr" / "fold11", 1.7e9 + 900, 0.99, fold=11, lr=0.5)
    page.get_by_role("button", name="read the folder of runs again").click()
    expect(page.locator(ROWS)).to_have_count(2)
    assert column(page, "run") == ["fold11", "fold10"] and column(page, "test.auroc") == ["0.990", "0.850"]
    expect(page.locator(f"{ROWS}[aria-current=true] th")).to_have_text("fold10")


def inks(canvas) -> set[int]:
    "The grey levels of what is drawn on a canvas, without colours and what is nearly transparent."
    code = """canvas => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return [...new Set(new Uint32Array(data.buffer))];
    }"""
    points = [tuple(number >> shift & 255 for shift in (0, 8, 16, 24)) for number in canvas.evaluate(code)]
    return {point[0] for point in points if point[3] > 100 and max(point[:3]) - min(point[:3]) < 12}


def test_text_on_the_axes_is_light_in_the_dark(lab, page, runs):
    _, _, notebook = runs
    lab.open(page, notebook)
    lab.run_all(page)
    page.get_by_label("curves of lr/fold2").check()
    canvas = page.locator(".mil-runs-curves canvas")
    canvas.wait_for()
    assert min(inks(canvas)) < 110
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty, .lm-mod-dirty").first.wait_for(state="detached")
    lab.use_theme("JupyterLab Dark")
    try:
        page.reload()
        page.locator("body[data-jp-theme-light=false]").wait_for(state="attached")
        canvas.wait_for()
        page.wait_for_timeout(2000)
        assert min(inks(canvas)) > 110, "after the page was loaded again"
        page.screenshot(path=lab.root / "dark.png")
    finally:
        lab.use_theme("JupyterLab Light")


def test_an_empty_folder_says_what_to_do(lab, page, tmp_path):
    write_notebook(
        lab.root / "no_runs.ipynb",
        "from pathlib import Path\nfrom mil_workbench.viewers.runs import RunBrowser\n"
        f"RunBrowser(Path({str(tmp_path)!r}))",
    )
    lab.open(page, "no_runs.ipynb")
    lab.run_all(page)
    expect(page.locator(".mil-message[role=status]")).to_contain_text("`make train` makes two small ones")
    expect(page.locator(".mil-runs-scroll")).to_be_hidden()


MANY = """
import numpy as np, pandas as pd
from pathlib import Path
from mil_workbench.viewers import runs
rng = np.random.default_rng(0)
n = 5000
table = pd.DataFrame({
    "study": [f"study{i % 10}" for i in range(n)], "run": [f"musk1-abmil-fold{i % 5}-seed{i // 5}" for i in range(n)],
    "state": ["failed" if i % 7 == 0 else "finished" for i in range(n)],
    "reason": ["out of memory" if i % 7 == 0 else "" for i in range(n)],
    "written": 1.7e9 + rng.permutation(n), "cohort": "musk1", "fold": np.arange(n) % 5, "seed": np.arange(n) // 5,
    **{name: rng.random(n) for name in ("test.auroc", "validation.auroc", "instance.auroc", "lr", "dropout",
                                        "weight_decay", "label_smoothing")},
    "model": rng.choice(["abmil", "mean", "dual_stream"], n),
    "history.epochs": rng.integers(1, 60, n), "history.seconds": rng.random(n) * 5000,
})
runs.table_of_runs = lambda folder: table.sort_values("written", ascending=False).reset_index(drop=True)
runs.RunBrowser(Path("."))
"""
MEASURE = """() => {
  const body = document.querySelector('.mil-runs-scroll tbody');
  const input = document.querySelector('.mil-controls input');
  const heads = [...document.querySelectorAll('.mil-runs-scroll thead button')];
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [800, 420];
  document.body.append(canvas);
  const context = canvas.getContext('2d', { willReadFrequently: false });
  const timed = (act, drawn) => { const start = performance.now(); act(); drawn(); return performance.now() - start; };
  const laidOut = () => body.getBoundingClientRect();
  const type = (words) => () => { input.value = words; input.dispatchEvent(new Event('input')); };
  const words = ['f', 'fi', 'finished', 'finished m', 'finished musk1', 'finished musk1 abmil', 'failed', 'study3', ''];
  const many = Array.from({ length: 90 }, (_, i) => i);
  const found = {
    sort: many.map((i) => timed(() => heads[i % heads.length].click(), laidOut)),
    filter: many.map((i) => timed(type(words[i % words.length]), laidOut)),
    empty: many.map(() => timed(() => context.clearRect(0, 0, 800, 420), () => context.getImageData(0, 0, 1, 1))),
  };
  canvas.remove();
  return found;
}"""


def measure_runs(lab, page) -> dict[str, tuple[float, float]]:  # what: median and 95th percentile, milliseconds
    "Handler and layout of sorting and filtering 5,000 runs, beside clearing an empty canvas."
    write_notebook(lab.root / "many_runs.ipynb", MANY)
    lab.open(page, "many_runs.ipynb")
    lab.run_all(page)
    expect(page.locator(".mil-controls [role=status]")).to_have_text("200 runs, and 4,800 more: filter")
    expect(page.locator(ROWS)).to_have_count(200)
    page.evaluate(MEASURE)  # once to warm up
    return {name: tuple(np.percentile(times, [50, 95]).round(2)) for name, times in page.evaluate(MEASURE).items()}


@pytest.mark.slow  # a figure of our own, near its bound on a busy machine
@pytest.mark.alone
def test_five_thousand_runs_stay_fluid(lab, page, table):
    measured = measure_runs(lab, page)
    table(
        "table of 5,000 runs, ms",
        **{f"{name}, {of}": value for name, pair in measured.items() for of, value in zip(("median", "p95"), pair)},
    )
    assert measured["sort"][0] <= 16 and measured["filter"][0] <= 16
