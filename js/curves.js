// Curves of the chosen runs over the epochs: a canvas, a choice of the quantity, the values in words, and a legend
// whose buttons remove curves.
import {
  choice,
  element,
  formatNumber,
  listen,
  makeCanvas,
  observeSize,
  onThemeChange,
  pageColours,
  resizeCanvas,
  setTrait,
} from "./common.js";

// after Okabe and Ito (2008)
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"];
const DASHES = [[], [6, 3], [2, 3]];
const WIDEST = 720;
const HEIGHT = 280;
const MARGIN = { left: 62, right: 12, top: 10, bottom: 38 };
const FIRST = ["validation_cross_entropy", "validation_auroc", "train_loss", "validation_accuracy", "train_accuracy"];

const colourOf = (number) => COLOURS[number % COLOURS.length];
const dashOf = (number) => DASHES[Math.floor(number / COLOURS.length) % DASHES.length];
const titleOf = (quantity) => quantity.replaceAll("_", " ").replace("auroc", "AUROC");

// Round numbers, about `count` of them, from `low` to `high`.
export function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const made = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    made.push(Number((i * step).toPrecision(12)));
  }
  return made;
}

// The quantities that any of the curves has, those that people ask for first in front.
function quantitiesOf(curves) {
  const found = new Set(curves.flatMap((curve) => Object.keys(curve.series)));
  found.delete("epoch");
  return [...FIRST.filter((name) => found.has(name)), ...[...found].filter((name) => !FIRST.includes(name)).sort()];
}

// The points of a curve, [epoch, value]; a person counts epochs from 1.
function pointsOf(curve, quantity) {
  const values = curve.series[quantity] ?? [];
  const points = curve.series.epoch.map((epoch, i) => [epoch, values[i]]);
  const isKnown = (value) => value !== null && value !== undefined;
  return points.filter((point) => point.every(isKnown)).map(([epoch, value]) => [epoch + 1, value]);
}

// How epochs and values lie on a canvas `width` wide: their ranges, and `x(epoch)` and `y(value)`. Null without points.
function scaleFor(points, width) {
  if (!points.length) return null;
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [epoch, value] of points) {
    left = Math.min(left, epoch);
    right = Math.max(right, epoch);
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  if (left === right) [left, right] = [left - 1, right + 1];
  [low, high] = [low - room, high + room];
  const across = width - MARGIN.left - MARGIN.right;
  const down = HEIGHT - MARGIN.top - MARGIN.bottom;
  const x = (epoch) => MARGIN.left + ((epoch - left) / (right - left)) * across;
  const y = (value) => HEIGHT - MARGIN.bottom - ((value - low) / (high - low)) * down;
  return { left, right, low, high, x, y };
}

function drawAxes(context, width, { left, right, low, high, x, y }, colours) {
  context.fillStyle = colours.faint;
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  context.font = "12px sans-serif";
  context.textAlign = "center";
  for (const epoch of ticks(left, right, width / 90).filter(Number.isInteger)) {
    context.fillText(epoch, x(epoch), HEIGHT - MARGIN.bottom + 16);
  }
  context.fillText("epoch", (MARGIN.left + width - MARGIN.right) / 2, HEIGHT - 5);
  context.textAlign = "right";
  for (const value of ticks(low, high, 5)) {
    context.fillText(formatNumber(value), MARGIN.left - 6, y(value) + 4);
    context.globalAlpha = 0.4;
    context.beginPath();
    context.moveTo(MARGIN.left, y(value));
    context.lineTo(width - MARGIN.right, y(value));
    context.stroke();
    context.globalAlpha = 1;
  }
}

// A curve, with a dot at each point; of many points at the epoch `place` alone.
function drawCurve(context, { x, y }, points, number, place) {
  context.strokeStyle = colourOf(number);
  context.fillStyle = colourOf(number);
  context.lineWidth = 1.8;
  context.setLineDash(dashOf(number));
  context.beginPath();
  for (const [epoch, value] of points) context.lineTo(x(epoch), y(value));
  context.stroke();
  context.setLineDash([]);
  const dotted = points.length > 30 ? points.filter(([epoch]) => epoch === place) : points;
  for (const [epoch, value] of dotted) {
    context.beginPath();
    context.arc(x(epoch), y(value), epoch === place ? 4 : 2, 0, 7);
    context.fill();
  }
}

function legendEntry(key, number, remove) {
  const swatch = element("span", { "aria-hidden": "true" });
  const stroke = `stroke="${colourOf(number)}" stroke-width="3" stroke-dasharray="${dashOf(number).join(" ")}"`;
  // made of numbers and colours of our own, no names in it
  swatch.innerHTML = `<svg width="26" height="8" aria-hidden="true"><path d="M1 4H25" ${stroke}/></svg>`;
  const value = element("output", { "aria-hidden": "true" });
  const attributes = { type: "button", "aria-label": `take away the curve of ${key}`, onclick: () => remove(key) };
  const button = element("button", attributes, "×");
  return element("div", { role: "listitem" }, swatch, value, element("span", {}, key), button);
}

export function curvesPanel(model, el, remove) {
  let width = WIDEST;
  let place = null; // the epoch under the pointer
  let scale = null; // of what is drawn
  const label = "curves of the chosen runs; the arrow keys move through the epochs";
  const surface = makeCanvas(width, HEIGHT, label);
  const { canvas, context } = surface;
  const readout = element("div", { class: "mil-runs-readout", role: "status" }); // what the legend shows, in words
  const legend = element("div", { class: "mil-runs-legend", role: "list", "aria-label": "curves drawn" });
  const quantities = choice("quantity", [], "", (quantity) => {
    setTrait(model, "quantity", quantity);
    draw();
  });
  const where = element("span", { class: "mil-readout", "aria-hidden": "true" });
  const above = element("div", { class: "mil-controls" }, quantities.root, where);
  const root = element("div", { class: "mil-runs-curves" }, element("div", {}, above, canvas), legend, readout);

  function resize() {
    if (!root.clientWidth) return;
    width = Math.min(WIDEST, root.clientWidth);
    resizeCanvas(surface, width, HEIGHT);
    draw();
  }

  function showTexts(curves, quantity) {
    const keys = curves.map(({ key }) => key);
    if (place === null) {
      for (const entry of legend.children) entry.querySelector("output").textContent = "";
      where.textContent = "point at an epoch, or use the arrow keys";
      readout.textContent = `${titleOf(quantity)} of ${keys.join(", ")}`;
      return;
    }
    const points = curves.map((curve) => pointsOf(curve, quantity).find(([epoch]) => epoch === place));
    points.forEach((point, i) => {
      legend.children[i].querySelector("output").textContent = point ? formatNumber(point[1]) : "–";
    });
    where.textContent = `epoch ${place}`;
    const values = keys.map((key, i) => `${key} ${points[i] ? formatNumber(points[i][1]) : "has none"}`);
    readout.textContent = `${titleOf(quantity)}, epoch ${place}: ${values.join("; ")}`;
  }

  function draw() {
    const curves = model.get("curves");
    root.hidden = !curves.length;
    if (root.hidden) return;
    const offered = quantitiesOf(curves);
    const quantity = offered.includes(model.get("quantity")) ? model.get("quantity") : offered[0];
    const options = offered.map((name) => [name, titleOf(name)]);
    quantities.offer(options, quantity);
    const lines = curves.map((curve) => pointsOf(curve, quantity));
    scale = scaleFor(lines.flat(), width);
    context.clearRect(0, 0, width, HEIGHT);
    const colours = pageColours(el);
    if (scale) {
      drawAxes(context, width, scale, colours);
      if (place !== null) {
        context.strokeStyle = colours.faint;
        context.strokeRect(scale.x(place), MARGIN.top, 0, HEIGHT - MARGIN.top - MARGIN.bottom);
      }
      lines.forEach((points, number) => {
        drawCurve(context, scale, points, number, place);
      });
    }
    showTexts(curves, quantity);
  }

  function moveTo(epoch) {
    place = scale && Math.min(Math.max(Math.round(epoch), Math.ceil(scale.left)), Math.floor(scale.right));
    draw();
  }

  function leave() {
    place = null;
    draw();
  }

  function onPointerMove(event) {
    if (!scale) return;
    const share = (event.offsetX - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    moveTo(scale.left + share * (scale.right - scale.left));
  }

  function onKey(event) {
    if (!scale) return;
    const targets = {
      ArrowLeft: (place ?? scale.right + 1) - 1,
      ArrowRight: (place ?? scale.left - 1) + 1,
      Home: scale.left,
      End: scale.right,
    };
    if (!(event.key in targets)) return;
    event.preventDefault();
    event.stopPropagation();
    moveTo(targets[event.key]);
  }

  function showCurves() {
    legend.replaceChildren(...model.get("curves").map(({ key }, number) => legendEntry(key, number, remove)));
    leave();
  }

  canvas.addEventListener("pointermove", onPointerMove);
  canvas.addEventListener("pointerleave", leave);
  canvas.addEventListener("keydown", onKey);
  observeSize(el, [root], resize);
  listen(model, "change:curves", showCurves, el);
  listen(model, "change:quantity", draw, el);
  onThemeChange(el, draw);
  showCurves();
  return root;
}
