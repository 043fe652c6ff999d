// The instances of a bag under a selector whose temperature one turns. Weights are worked out here; images and the
// curve of the bag's probability come from Python.
import {
  cleanup,
  element,
  formatNumber,
  frame,
  listen,
  makeCanvas,
  observeSize,
  onThemeChange,
  pageColours,
  resizeCanvas,
} from "./common.js";
import { valueOnCurve } from "./selection.js";
import {
  drawBars,
  drawTemperatures,
  drawThumbnails,
  HEIGHTS,
  placeBars,
  placeThumbnails,
  threeDigits,
  thumbnailHeight,
} from "./selector_charts.js";
import { selectorControls } from "./selector_controls.js";
import { stateReader } from "./selector_state.js";

const HINT = "Point at a bar, or go to the bars by Tab and press arrow keys, to read one instance.";

// A canvas that is made as wide as its column once that is known; `heightAt(width)` is its height.
function fittedCanvas(heightAt, label) {
  const made = makeCanvas(1, 1, label);
  const fit = (width) => {
    resizeCanvas(made, width, heightAt(width));
    made.width = width;
  };
  return Object.assign(made, { fit, width: 0 });
}

function legendOf(finding) {
  const instance = element("span", { class: "mil-selector-instance" }, "instance");
  const uniform = element("span", { class: "mil-selector-uniform" }, "all alike");
  const title = "selection weight of each instance";
  return element("div", { class: "mil-selector-legend" }, title, instance, finding, uniform);
}

function figuresOf(texts) {
  const scale = element("span", {}, "0: one has all, 1: all alike");
  return element(
    "div",
    { class: "mil-selector-figures" },
    element("div", {}, "largest weight ", texts.largest, texts.largestOf),
    element("div", {}, "effective number ", texts.effective, texts.effectiveOf),
    element("div", {}, "entropy / log N ", texts.entropy, scale),
  );
}

// The parts of the picture, and `setText(name, text)`, which changes the page only where the text is a new one.
function layOut(body) {
  const live = { class: "mil-readout", "aria-live": "polite" };
  const texts = {
    title: element("p", { class: "mil-selector-title" }),
    largest: element("b"),
    largestOf: element("span"),
    effective: element("b"),
    effectiveOf: element("span"),
    entropy: element("b"),
    noImages: element("p", { class: "mil-readout" }),
    readout: element("p", live),
    caption: element("p", live),
  };
  const finding = element("span", { class: "mil-selector-finding" }, "shows the finding");
  const bars = fittedCanvas(() => HEIGHTS.bars, "selection weights");
  const thumbnails = fittedCanvas(thumbnailHeight, "the instances with the highest scores");
  const label = "the bag's probability over the temperature, and the temperature of each epoch";
  const temperatures = fittedCanvas(() => HEIGHTS.temperatures, label);
  bars.canvas.setAttribute("role", "slider"); // over its instances, by arrow keys
  const above = [texts.title, figuresOf(texts), legendOf(finding)];
  const below = [bars.canvas, thumbnails.canvas, texts.noImages, texts.readout];
  const left = element("div", { class: "mil-selector-bars" }, ...above, ...below);
  const right = element("div", { class: "mil-selector-temperatures" }, temperatures.canvas, texts.caption);
  body.append(left, right);
  const setText = (name, text) => {
    if (texts[name].textContent !== text) texts[name].textContent = text;
    texts[name].hidden = !text;
  };
  return { left, right, bars, thumbnails, temperatures, finding, setText };
}

function describeCurve(now) {
  if (now.curveMessage) return now.curveMessage;
  const value = valueOnCurve(now.curve, now.temperature_range, now.temperature);
  const probability = `Temperature ${formatNumber(now.temperature)}: ${now.probabilityOf} ${threeDigits(value)}`;
  const whose = `by the weights kept, those of epoch ${now.kept_epoch + 1}`;
  const dashed = now.isKept ? "" : `; dashed, since the bars show the scores of epoch ${now.epoch + 1}`;
  const hard = now.mode === "hard" ? " Hard selection is the same at any temperature." : "";
  return `${probability}, ${whose}${dashed}.${hard}`;
}

// The numbers of the picture in words.
function describe(now, cursor) {
  const { weights, scores, finding, critical } = now;
  const kindOf = (row) => {
    if (!finding.length) return "";
    return finding[row] ? ", shows the finding" : ", no finding";
  };
  const readout = (row) => {
    const numbers = `score ${threeDigits(scores[row])}, weight ${threeDigits(weights[row])}`;
    return `instance ${row + 1} of ${weights.length}: ${numbers}${kindOf(row)}`;
  };
  return {
    title: now.title,
    largest: formatNumber(now.largest),
    largestOf: `instance ${critical + 1}${kindOf(critical)}`,
    effective: formatNumber(now.effective),
    effectiveOf: `of ${weights.length} instances`,
    entropy: formatNumber(now.entropy),
    readout: cursor === null ? HINT : readout(cursor),
    noImages: now.thumbnailMessage,
    caption: describeCurve(now),
  };
}

function render({ model, el }) {
  const { controls, body } = frame(model, el, "selector of the critical instance");
  controls.append(...selectorControls(model, el));
  const { left, right, bars, thumbnails, temperatures, finding, setText } = layOut(body);
  const readState = stateReader(model);
  let colours = null;
  let cursor = null; // the instance that is read out
  let boxes = []; // of the thumbnails
  let count = 0; // instances

  function draw() {
    if (model.get("message") || !colours) return undefined;
    const now = readState();
    count = now.weights.length;
    if (cursor >= count) cursor = null;
    boxes = placeThumbnails(thumbnails.width, now.highest);
    thumbnails.canvas.hidden = !boxes.length;
    finding.hidden = !now.finding.length;
    drawBars(bars.context, bars.width, { ...now, cursor }, colours);
    if (boxes.length) drawThumbnails(thumbnails.context, thumbnails.width, { ...now, cursor, boxes }, colours);
    drawTemperatures(temperatures.context, temperatures.width, now, colours);
    const words = describe(now, cursor);
    for (const [name, text] of Object.entries(words)) setText(name, text);
    return words;
  }

  function readInstance(row) {
    if (row === undefined || row === cursor) return;
    cursor = row;
    const { readout } = draw();
    const values = { valuemin: 1, valuemax: count, valuenow: row + 1, valuetext: readout };
    for (const [name, value] of Object.entries(values)) bars.canvas.setAttribute(`aria-${name}`, value);
  }

  function rowOfKey(key) {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[key];
    const { critical } = readState();
    if (step) return cursor === null ? critical : cursor + step;
    return { Home: 0, End: count - 1, Enter: critical }[key];
  }

  bars.canvas.addEventListener("pointermove", (event) => {
    readInstance(placeBars(bars.width, count).rowAt(event.offsetX));
  });
  bars.canvas.addEventListener("keydown", (event) => {
    const row = rowOfKey(event.key);
    if (row === undefined) return;
    event.preventDefault();
    readInstance(Math.max(0, Math.min(count - 1, row)));
  });
  thumbnails.canvas.addEventListener("pointermove", ({ offsetX: x, offsetY: y }) => {
    const box = boxes.find((each) => x >= each.left && x < each.left + each.side && y >= each.top);
    readInstance(box?.row);
  });

  function resize() {
    if (!left.clientWidth) return;
    colours = pageColours(el);
    const canvases = [
      [left, bars],
      [left, thumbnails],
      [right, temperatures],
    ];
    for (const [column, made] of canvases) {
      if (made.width !== column.clientWidth) made.fit(column.clientWidth);
    }
    draw();
  }

  const forgetInstance = () => {
    cursor = null;
  };
  observeSize(el, [left, right], resize);
  onThemeChange(el, resize);
  listen(model, "change:case", forgetInstance, el);
  listen(model, "change", draw, el);
  return cleanup(el);
}

export default { render };
