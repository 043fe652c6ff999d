// The instances of a bag under a selector whose temperature one turns: weights are worked out here, images and the curve by Python.
import { button, caseControls, choice, element, ends, frame, listen, onThemeChange, slider, surface, theme, written } from "./common.js";
import { onCurve } from "./selection.js";
import { HEIGHTS, drawBars, drawTemperatures, drawThumbnails, placeBars, placeThumbnails, three, thumbnailHeight } from "./selector_charts.js";
import { reader } from "./selector_state.js";

const MODES = [["soft", "soft (all share)"], ["hard", "hard (the highest)"], ["top_k", "top-k (the k highest)"]];
const SCORES = [["logit", "logit"], ["sigmoid", "sigmoid"]];
const HINT = "Point at a bar, or go to the bars by Tab and press arrow keys, to read one instance.";

// Calls `take` with the number typed into `input`, by Enter (of which JupyterLab's page makes no change event) or on leaving it.
function onTyped(input, take) {
  const tell = () => take(Number(input.value.replace(",", ".")));
  input.addEventListener("change", tell);
  input.addEventListener("keydown", (event) => event.key === "Enter" && tell());
  return input;
}

// A logarithmic slider and a box to type into; `choose(temperature, isDone)` is told while the slider moves, and once it rests.
function temperatureControl(choose) {
  const input = element("input", { type: "range", step: 0.01, "aria-label": "temperature", class: "mil-selector-long" });
  const box = onTyped(element("input", { type: "text", inputmode: "decimal", class: "mil-selector-number", "aria-label": "temperature, as a number" }), (value) => choose(value, true));
  const position = () => Number((10 ** Number(input.value)).toPrecision(3));
  input.addEventListener("input", () => choose(position(), false));
  input.addEventListener("change", () => choose(position(), true));
  const show = (temperature, [low, high]) => {
    Object.assign(input, { min: Math.log10(low), max: Math.log10(high), value: Math.log10(temperature) });
    input.setAttribute("aria-valuetext", written(temperature));
    box.value = written(temperature);
  };
  return { root: element("span", { class: "mil-control mil-selector-wrap" }, element("label", { class: "mil-control" }, "temperature ", input), box), show };
}

// The controls; each tells the model, and is set as the model says.
function controlsOf(model, el) {
  const get = (name) => model.get(name);
  const tell = (name, value, isDone = true) => {
    model.set(name, value);
    if (isDone) model.save_changes();
  };
  const own = (epoch) => get("temperatures")[get("epochs").indexOf(epoch)];
  const isOwn = () => get("temperature") === own(get("epoch"));
  const temperature = temperatureControl((value, isDone) => {
    const [low, high] = get("temperature_range");
    if (value > 0) tell("temperature", Math.min(high, Math.max(low, value)), isDone);
    showTemperature();
  });
  const mode = choice("selection", MODES, get("mode"), (value) => tell("mode", value));
  const scores = choice("scores", SCORES, get("scores"), (value) => tell("scores", value));
  const k = onTyped(element("input", { type: "number", min: 1, step: 1, class: "mil-selector-number", "aria-label": "k, how many share the weight" }), (value) => {
    if (value >= 1) tell("k", Math.round(value));
    show();
  });
  const kRoot = element("label", { class: "mil-control" }, "k ", k);
  const epoch = slider("epoch", { min: 0, max: 0, step: 1, value: 0, show: (position) => (position in get("epochs") ? String(get("epochs")[position] + 1) : "") }, (position) => {
    const chosen = get("epochs")[position];
    if (isOwn()) model.set("temperature", own(chosen)); // it was the epoch's own, and stays so
    tell("epoch", chosen);
  });
  const ownButton = button("the epoch's own", "the temperature that this epoch was trained at; while it is set, it goes along from epoch to epoch", () => tell("temperature", own(get("epoch"))));
  const showTemperature = () => {
    temperature.show(get("temperature"), get("temperature_range"));
    ownButton.setAttribute("aria-pressed", isOwn());
  };
  const show = () => {
    [mode.select.value, scores.select.value, k.value, kRoot.hidden] = [get("mode"), get("scores"), get("k"), get("mode") !== "top_k"];
    epoch.input.max = get("epochs").length - 1;
    epoch.set(get("epochs").indexOf(get("epoch")));
    epoch.root.hidden = get("epochs").length < 2;
    showTemperature();
  };
  for (const name of ["mode", "scores", "k", "epoch", "epochs", "temperatures", "temperature_range"]) listen(model, `change:${name}`, show, el);
  listen(model, "change:temperature", showTemperature, el);
  show();
  return [caseControls(model, el), mode.root, kRoot, scores.root, temperature.root, ownButton, epoch.root];
}

// A surface that is made as wide as its column, once that is known; `heightAt(width)` is its height.
function fitted(heightAt, label) {
  const made = surface(1, 1, label);
  const fit = (width) => {
    const [scale, height] = [window.devicePixelRatio || 1, heightAt(width)];
    Object.assign(made.canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    Object.assign(made.canvas.style, { width: `${width}px`, height: `${height}px` });
    made.context.scale(scale, scale);
    made.width = width;
  };
  return Object.assign(made, { fit, width: 0 });
}

// The picture's parts, and `tell(name, text)`, which writes where the text is another one.
function layOut(body) {
  const texts = { title: element("p", { class: "mil-selector-title" }), noImages: element("p", { class: "mil-readout" }) };
  for (const name of ["largest", "effective", "entropy"]) texts[name] = element("b");
  for (const name of ["largestOf", "effectiveOf"]) texts[name] = element("span");
  for (const name of ["readout", "caption"]) texts[name] = element("p", { class: "mil-readout", "aria-live": "polite" });
  const measured = element("div", { class: "mil-selector-figures" },
    element("div", {}, "largest weight ", texts.largest, texts.largestOf),
    element("div", {}, "effective number ", texts.effective, texts.effectiveOf),
    element("div", {}, "entropy / log N ", texts.entropy, element("span", {}, "0: one has all, 1: all alike")));
  const finding = element("span", { class: "mil-selector-finding" }, "shows the finding");
  const legend = element("div", { class: "mil-selector-legend" }, "selection weight of each instance",
    element("span", { class: "mil-selector-instance" }, "instance"), finding, element("span", { class: "mil-selector-uniform" }, "all alike"));
  const bars = fitted(() => HEIGHTS.bars, "selection weights");
  const thumbnails = fitted(thumbnailHeight, "the instances with the highest scores");
  const temperatures = fitted(() => HEIGHTS.temperatures, "the bag's probability over the temperature, and the temperature of each epoch");
  bars.canvas.setAttribute("role", "slider"); // of its instances, by arrow keys
  const left = element("div", { class: "mil-selector-bars" }, texts.title, measured, legend, bars.canvas, thumbnails.canvas, texts.noImages, texts.readout);
  const right = element("div", { class: "mil-selector-temperatures" }, temperatures.canvas, texts.caption);
  body.append(left, right);
  const tell = (name, text) => {
    if (texts[name].textContent !== text) texts[name].textContent = text;
    texts[name].hidden = !text;
  };
  return { left, right, bars, thumbnails, temperatures, finding, tell };
}

// Sentences with the numbers of the picture.
function inWords(now, cursor) {
  const { weights, scores, finding, critical, largest, effective, entropy, epoch, keptEpoch } = now;
  const kind = (row) => (finding.length ? (finding[row] ? ", shows the finding" : ", no finding") : "");
  const probability = now.curve.length ? `Temperature ${written(now.temperature)}: ${now.probabilityOf} ${three(onCurve(now.curve, now.range, now.temperature))}` : "";
  const whose = `by the weights kept, those of epoch ${keptEpoch + 1}${now.isKept ? "" : `; dashed, since the bars show the scores of epoch ${epoch + 1}`}.`;
  return {
    title: now.title,
    largest: written(largest),
    largestOf: `instance ${critical + 1}${kind(critical)}`,
    effective: written(effective),
    effectiveOf: `of ${weights.length} instances`,
    entropy: written(entropy),
    readout: cursor === null ? HINT : `instance ${cursor + 1} of ${weights.length}: score ${three(scores[cursor])}, weight ${three(weights[cursor])}${kind(cursor)}`,
    noImages: now.thumbnailMessage,
    caption: now.curveMessage || `${probability}, ${whose}${now.mode === "hard" ? " Hard selection is the same at any temperature." : ""}`,
  };
}

function render({ model, el }) {
  const { controls, body } = frame(model, el, "selector of the critical instance");
  controls.append(...controlsOf(model, el));
  const { left, right, bars, thumbnails, temperatures, finding, tell } = layOut(body);
  const read = reader(model);
  let [colours, cursor, boxes, count] = [null, null, [], 0];

  const draw = () => {
    if (model.get("message") || !colours) return;
    const now = read();
    count = now.weights.length;
    if (cursor >= count) cursor = null;
    boxes = placeThumbnails(thumbnails.width, now.highest);
    thumbnails.canvas.hidden = !boxes.length;
    finding.hidden = !now.finding.length;
    drawBars(bars.context, bars.width, { ...now, cursor }, colours);
    if (boxes.length) drawThumbnails(thumbnails.context, thumbnails.width, { ...now, cursor, boxes }, colours);
    drawTemperatures(temperatures.context, temperatures.width, now, colours);
    const words = inWords(now, cursor);
    for (const [name, text] of Object.entries(words)) tell(name, text);
    return words;
  };
  const point = (row) => {
    if (row === undefined || row === cursor) return;
    cursor = row;
    const { readout } = draw();
    for (const [name, value] of [["valuemin", 1], ["valuemax", count], ["valuenow", row + 1], ["valuetext", readout]]) bars.canvas.setAttribute(`aria-${name}`, value);
  };
  const critical = () => read().critical;
  bars.canvas.addEventListener("pointermove", (event) => point(placeBars(bars.width, count).rowAt(event.offsetX)));
  bars.canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    const row = step ? (cursor === null ? critical() : cursor + step) : { Home: 0, End: count - 1, Enter: critical() }[event.key];
    if (row === undefined) return;
    event.preventDefault();
    point(Math.max(0, Math.min(count - 1, row)));
  });
  thumbnails.canvas.addEventListener("pointermove", ({ offsetX, offsetY }) => {
    point(boxes.find(({ left, top, side }) => offsetX >= left && offsetX < left + side && offsetY >= top)?.row);
  });

  const resize = () => {
    if (!left.clientWidth) return;
    colours = theme(el);
    for (const [column, made] of [[left, bars], [left, thumbnails], [right, temperatures]]) if (made.width !== column.clientWidth) made.fit(column.clientWidth);
    draw();
  };
  const observer = new ResizeObserver(resize);
  observer.observe(left);
  observer.observe(right);
  (el.milEnds ??= []).push(() => observer.disconnect());
  onThemeChange(el, resize);
  listen(model, "change:case", () => (cursor = null), el);
  listen(model, "change", draw, el);
  return ends(el);
}

export default { render };
