"The selector viewer as a person uses it: what the page shows against numbers from scipy."

import re

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import entropy

EPOCHS, SIZE, KEPT = (0, 4, 9), 64, 1
random = np.random.default_rng(5)
LOGITS = np.round(random.normal(0, 2, (3, SIZE)) * np.array([[0.3], [1], [2]]), 3).astype(np.float32)
LOGITS[1, [11, 50]] = LOGITS[1].max() + 1  # two that tie as the highest
FINDING = np.isin(np.arange(SIZE), [11, 12])
TEMPERATURES = (10.0, 1.5, 0.2)
NOTEBOOK = f"""
    import numpy as np
    from mil_workbench.viewers.selection import SelectorCase
    from mil_workbench.viewers.selector import SelectorViewer

    logits, epochs, temperatures = np.array({LOGITS.tolist()}), {EPOCHS}, np.array({TEMPERATURES})
    broken, large = logits.copy(), np.random.default_rng(0).normal(0, 3, (3, 512))
    broken[1, 3:] = np.nan


    def probability(mode, scores, k, temperatures):
        return 1 / (1 + temperatures ** (2 if mode == "top_k" else 1))


    def thumbnails(rows):
        return np.tile(rows.astype(np.uint8)[:, None, None], (1, 16, 16))


    facts = dict(
        schedule=np.geomspace(10, 0.2, 10), epochs=epochs, temperatures=temperatures, kept_epoch={EPOCHS[KEPT]},
        thumbnails=thumbnails, probability=probability, positive="$p_1$ <b>",
    )
    finding = np.array({FINDING.astype(int).tolist()})
    cases = {{
        "p001": SelectorCase(logits, instance_labels=finding, title="p001, called positive", **facts),
        "diverged": SelectorCase(broken, **facts),
        "features": SelectorCase(logits[:1], epochs[:1], temperatures[:1]),
        "large": SelectorCase(large, **facts),
    }}
    viewer = SelectorViewer(list(cases), cases.get)
    viewer
"""


@pytest.fixture
def viewer(lab, page):
    lab.show(page, NOTEBOOK)
    shown = page.locator(".mil-viewer")
    shown.get_by_text("probability of $p_1$ <b> 0.4, by the weights kept").wait_for()  # at temperature 1.5
    return shown


def weights_of(logits, temperature, mode="soft", scores="logit", k=8):
    "The weights, written anew: a softmax over what is chosen."
    values = expit(logits.astype(np.float64)).astype(np.float32) if scores == "sigmoid" else logits
    tempered = values.astype(np.float64) / temperature
    order = sorted(range(len(values)), key=lambda row: (-values[row], row))
    chosen = order[: {"soft": len(order), "hard": 1, "top_k": k}[mode]]
    return softmax([tempered[row] if row in chosen else -np.inf for row in range(len(values))])


def control(viewer, label):
    return viewer.get_by_label(label, exact=True)


def type_into(viewer, label, text):
    box = control(viewer, label)
    box.click()
    box.press("Control+a")
    box.page.keyboard.type(text)
    box.press("Enter")


def bars(viewer):
    return viewer.get_by_role("slider", name="selection weights")


def readout(viewer):
    return bars(viewer).get_attribute("aria-valuetext")


def figures(viewer):
    "The three numbers above the bars, and the instance of the largest weight."
    texts = viewer.locator(".mil-selector-figures").inner_text()
    largest, instance, effective, spread = re.search(
        r"largest weight\s+(\S+)\s+instance (\d+).*effective number\s+(\S+)\s+of 64.*log N\s+(\S+)", texts, re.DOTALL
    ).groups()
    return float(largest), int(instance), float(effective), float(spread)


def check_page(viewer, weights, instances=(0, 11, 12, 50, 63)):
    "Compare what the page says of the bag, and of some instances under the keyboard's cursor, with `weights`."
    largest, instance, effective, spread = figures(viewer)
    np.testing.assert_allclose(largest, weights.max(), rtol=1e-3)
    assert instance == weights.argmax() + 1
    np.testing.assert_allclose(effective, 1 / np.square(weights).sum(), rtol=1e-3)
    np.testing.assert_allclose(spread, entropy(weights) / np.log(len(weights)), rtol=1e-3, atol=1e-12)
    box = bars(viewer).bounding_box()
    for row in instances:
        across = box["width"] - 52 - 8
        viewer.page.mouse.move(box["x"] + 52 + (row + 0.5) * across / len(weights), box["y"] + 60)
        parts = re.search(
            r"instance (\d+) of 64: score (\S+), weight (\S+), (.*)",
            viewer.locator(".mil-readout", has_text="instance").last.inner_text(),
        )
        assert int(parts[1]) == row + 1 and parts[4] == ("shows the finding" if FINDING[row] else "no finding")
        np.testing.assert_allclose(float(parts[3]), weights[row], rtol=6e-3, atol=1e-12)


def test_weights_at_temperature_0_3_are_those_of_scipy_in_every_mode(viewer):
    type_into(viewer, "temperature, as a number", "0.3")
    assert control(viewer, "temperature").get_attribute("aria-valuetext") == "0.3"
    for scores in ("logit", "sigmoid"):
        control(viewer, "scores").select_option(scores)
        for mode in ("soft", "hard", "top_k"):
            control(viewer, "selection").select_option(mode)
            if mode == "top_k":
                type_into(viewer, "k, how many share the weight", "3")
            check_page(viewer, weights_of(LOGITS[KEPT], 0.3, mode, scores, 3))


def test_temperature_dragged_and_typed_and_the_curve_that_follows(viewer):
    slider = control(viewer, "temperature")
    box = slider.bounding_box()
    mouse, middle = viewer.page.mouse, box["y"] + box["height"] / 2
    mouse.move(box["x"] + box["width"] / 2, middle)
    mouse.down()
    seen = []
    for place in (0.5, 0.6, 0.7, 0.8):
        mouse.move(box["x"] + box["width"] * place, middle)
        temperature = float(slider.get_attribute("aria-valuetext"))
        seen.append(temperature)
        np.testing.assert_allclose(figures(viewer)[0], weights_of(LOGITS[KEPT], temperature).max(), rtol=1e-3)
    mouse.up()
    assert 0.9 < seen[0] < 1.1 and np.all(np.diff(seen) > 0)
    for typed, taken in (("0,3", "0.3"), ("cold", "0.3"), ("-1", "0.3"), ("1000", "100"), ("0.0001", "0.01")):
        type_into(viewer, "temperature, as a number", typed)
        assert control(viewer, "temperature, as a number").input_value() == taken

    def probability():
        return float(
            re.search(
                r"probability of \$p_1\$ <b> (\S+),",
                viewer.locator(".mil-selector-temperatures .mil-readout").inner_text(),
            )[1]
        )

    for temperature in (0.01, 0.3, 3, 100):
        type_into(viewer, "temperature, as a number", str(temperature))
        np.testing.assert_allclose(probability(), 1 / (1 + temperature), atol=2e-3, rtol=6e-3)
    type_into(viewer, "temperature, as a number", "10")
    control(viewer, "selection").select_option("top_k")  # of which Python has another curve
    viewer.get_by_text("probability of $p_1$ <b> 0.0099,").wait_for()  # 1 / (1 + 10 ** 2)


def brightness(viewer):
    "Of the six thumbnails, from left to right."
    return viewer.get_by_role("img", name="the instances with the highest scores").evaluate("""canvas => {
        const [context, across] = [canvas.getContext("2d"), canvas.width - 60 * devicePixelRatio];
        const left = (i) => 52 * devicePixelRatio + (i + 0.5) * across / 6;
        return [0, 1, 2, 3, 4, 5].map((i) => context.getImageData(left(i), 50 * devicePixelRatio, 1, 1).data[0]);
    }""")


def check_thumbnails(viewer, logits):
    "Each is as bright as its row's number; Python sends them in its own time."
    expected = sorted(sorted(range(SIZE), key=lambda row: (-logits[row], row))[:6])
    for _ in range(600):
        if brightness(viewer) == expected:
            break
        viewer.page.wait_for_timeout(100)
    assert brightness(viewer) == expected


def test_epochs_with_their_thumbnails_and_their_own_temperature(viewer):
    epoch = control(viewer, "epoch")
    assert epoch.get_attribute("aria-valuetext") == "5"
    check_thumbnails(viewer, LOGITS[1])
    epoch.press("ArrowRight")
    check_page(viewer, weights_of(LOGITS[2], 0.2))
    check_thumbnails(viewer, LOGITS[2])
    viewer.get_by_text("the bars show the scores of epoch 10").wait_for()
    type_into(viewer, "temperature, as a number", "0.7")
    epoch.press("Home")
    check_page(viewer, weights_of(LOGITS[0], 0.7))
    viewer.get_by_text("the epoch's own").click()
    check_page(viewer, weights_of(LOGITS[0], 10))


def test_arrow_keys_read_instances_and_a_case_that_cannot_be_shown_is_a_sentence(viewer):
    bars(viewer).focus()
    for key, row in (
        ("ArrowRight", 11),
        ("ArrowRight", 12),
        ("ArrowLeft", 11),
        ("End", 63),
        ("ArrowRight", 63),
        ("Home", 0),
        ("Enter", 11),
    ):
        bars(viewer).press(key)
        assert readout(viewer).startswith(
            f"instance {row + 1} of 64: score {float(f'{LOGITS[KEPT, row]:.3g}'):g}, weight "
        ), key
    bars(viewer).press("ArrowDown")  # JupyterLab would go to the next cell
    assert bars(viewer).evaluate("bars => bars === document.activeElement")

    control(viewer, "case").select_option("diverged")
    viewer.get_by_text("case diverged: its scores hold NaN in epoch 5, from instance 4 on; the run diverged").wait_for()
    assert not bars(viewer).is_visible()
    control(viewer, "case").select_option("features")
    viewer.get_by_text("This case has features only: there are no images to show.").wait_for()
    viewer.get_by_text("There is no curve: this run's model is not at hand.").wait_for()
    assert bars(viewer).is_visible() and not control(viewer, "epoch").is_visible()


MOVES = """async (viewer) => {
    const slider = viewer.querySelector('input[aria-label="temperature"]');
    const canvases = [...viewer.querySelectorAll("canvas")];
    const likeIt = ({ width, height }) => Object.assign(document.createElement("canvas"), { width, height });
    const empty = canvases.map(likeIt);
    const isDrawn = (canvas) => canvas.getContext("2d").getImageData(0, 0, 1, 1); // waits for what was drawn
    const times = { slider: [], empty: [] };
    for (let move = 0; move < 200; move++) {
        slider.value = -2 + (4 * move) / 199;
        let start = performance.now();
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        canvases.forEach(isDrawn);
        times.slider.push(performance.now() - start);
        start = performance.now();
        empty.forEach((canvas) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height));
        empty.forEach(isDrawn);
        times.empty.push(performance.now() - start);
        await new Promise(requestAnimationFrame); // as moves come
    }
    return times;
}"""


@pytest.mark.slow  # a time: other work on the machine would fail it
@pytest.mark.alone
def test_slider_is_quick(viewer, table):
    control(viewer, "case").select_option("large")
    viewer.get_by_text("of 512 instances").wait_for()
    viewer.get_by_text("by the weights kept").wait_for()
    times = viewer.evaluate(MOVES)
    median, late = np.percentile(times["slider"], [50, 95])
    empty, empty_late = np.percentile(times["empty"], [50, 95])
    table("temperature slider, 512 instances, ms", median=median, p95=late, empty_median=empty, empty_p95=empty_late)
    assert median <= 8 and late <= 16
