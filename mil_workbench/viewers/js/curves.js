// Curves of the chosen runs over the epochs: a canvas, a choice of the quantity, a readout in words, a legend that takes curves away.
import { choice, element, listen, onThemeChange, surface, theme, written } from "./common.js";

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"]; // after Okabe and Ito (2008)
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
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) made.push(Number((i * step).toPrecision(12)));
  return made;
}

// The quantities that any of the curves has, those that people ask for first in front.
function quantitiesOf(curves) {
  const found = new Set(curves.flatMap((curve) => Object.keys(curve.series)));
  found.delete("epoch");
  return [...FIRST.filter((name) => found.has(name)), ...[...found].filter((name) => !FIRST.includes(name)).sort()];
}

// The points of a curve; a person counts epochs from 1.
function pointsOf(curve, quantity) {
  const values = curve.series[quantity] ?? [];
  return curve.series.epoch.map((epoch, i) => [epoch ?? NaN, values[i]]).filter(([epoch, value]) => Number.isFinite(epoch) && value != null).map(([epoch, value]) => [epoch + 1, value]);
}

export function curvesPanel(model, el, remove) {
  let width = WIDEST;
  const { canvas, context } = surface(width, HEIGHT, "curves of the chosen runs; the arrow keys move through the epochs");
  const readout = element("div", { class: "mil-runs-said", role: "status" }); // in words what the legend shows
  const legend = element("div", { class: "mil-runs-legend", role: "list", "aria-label": "curves drawn" });
  const ask = (quantity) => {
    model.set("quantity", quantity);
    model.save_changes();
    draw();
  };
  const quantities = choice("quantity", [], "", ask);
  const where = element("span", { class: "mil-readout", "aria-hidden": "true" });
  const above = element("div", { class: "mil-controls" }, quantities.root, where);
  const root = element("div", { class: "mil-runs-curves" }, element("div", {}, above, canvas), legend, readout);
  const onResize = new ResizeObserver(() => {
    if (root.clientWidth) resize();
  });
  onResize.observe(root);
  (el.milEnds ??= []).push(() => onResize.disconnect());
  let place = null; // the epoch under the pointer
  let scale = null; // of the picture

  function resize() {
    width = Math.min(WIDEST, root.clientWidth);
    const sharpness = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * sharpness);
    canvas.style.width = `${width}px`;
    context.scale(sharpness, sharpness);
    draw();
  }

  function fit(lines) {
    const points = lines.flat();
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
    const x = (epoch) => MARGIN.left + ((epoch - left) / (right - left)) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => HEIGHT - MARGIN.bottom - ((value - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    return { left, right, low, high, x, y };
  }

  function drawAxes(colours) {
    const { left, right, low, high, x, y } = scale;
    context.fillStyle = colours.faint;
    context.strokeStyle = colours.line;
    context.lineWidth = 1;
    context.font = "12px sans-serif";
    context.textAlign = "center";
    for (const epoch of ticks(left, right, width / 90).filter(Number.isInteger)) context.fillText(epoch, x(epoch), HEIGHT - MARGIN.bottom + 16);
    context.fillText("epoch", (MARGIN.left + width - MARGIN.right) / 2, HEIGHT - 5);
    context.textAlign = "right";
    for (const value of ticks(low, high, 5)) {
      context.fillText(written(value), MARGIN.left - 6, y(value) + 4);
      context.globalAlpha = 0.4;
      context.beginPath();
      context.moveTo(MARGIN.left, y(value));
      context.lineTo(width - MARGIN.right, y(value));
      context.stroke();
      context.globalAlpha = 1;
    }
  }

  function drawLine(points, number) {
    context.strokeStyle = context.fillStyle = colourOf(number);
    context.lineWidth = 1.8;
    context.setLineDash(dashOf(number));
    context.beginPath();
    for (const [epoch, value] of points) context.lineTo(scale.x(epoch), scale.y(value));
    context.stroke();
    context.setLineDash([]);
    for (const [epoch, value] of points.length > 30 ? points.filter(([epoch]) => epoch === place) : points) {
      context.beginPath();
      context.arc(scale.x(epoch), scale.y(value), epoch === place ? 4 : 2, 0, 7);
      context.fill();
    }
  }

  function tell(curves, quantity) {
    const values = curves.map((curve) => (place === null ? null : pointsOf(curve, quantity).find(([epoch]) => epoch === place)));
    const texts = values.map((at) => (at ? written(at[1]) : place === null ? "" : "–"));
    texts.forEach((text, i) => (legend.children[i].querySelector("output").textContent = text));
    where.textContent = place === null ? "point at an epoch, or use the arrow keys" : `epoch ${place}`;
    if (place === null) readout.textContent = `${titleOf(quantity)} of ${curves.map(({ key }) => key).join(", ")}`;
    else readout.textContent = `${titleOf(quantity)}, epoch ${place}: ${curves.map(({ key }, i) => `${key} ${values[i] ? texts[i] : "has none"}`).join("; ")}`;
  }

  function draw() {
    const curves = model.get("curves");
    root.hidden = !curves.length;
    if (root.hidden) return;
    const offered = quantitiesOf(curves);
    const quantity = offered.includes(model.get("quantity")) ? model.get("quantity") : offered[0];
    quantities.offer(offered.map((name) => [name, titleOf(name)]), quantity);
    const lines = curves.map((curve) => pointsOf(curve, quantity));
    scale = fit(lines);
    context.clearRect(0, 0, width, HEIGHT);
    const colours = theme(el);
    if (scale) {
      drawAxes(colours);
      if (place !== null) {
        context.strokeStyle = colours.faint;
        context.strokeRect(scale.x(place), MARGIN.top, 0, HEIGHT - MARGIN.top - MARGIN.bottom);
      }
      lines.forEach(drawLine);
    }
    tell(curves, quantity);
  }

  function drawLegend() {
    const entry = ({ key }, number) => {
      const dashes = dashOf(number).join(" ");
      const swatch = `<svg width="26" height="8" aria-hidden="true"><path d="M1 4H25" stroke="${colourOf(number)}" stroke-width="3" stroke-dasharray="${dashes}"/></svg>`;
      const shown = element("span", { "aria-hidden": "true" });
      shown.innerHTML = swatch; // of numbers and colours of our own
      const take = element("button", { type: "button", "aria-label": `take away the curve of ${key}`, onclick: () => remove(key) }, "×");
      return element("div", { role: "listitem" }, shown, element("output", { "aria-hidden": "true" }), element("span", {}, key), take);
    };
    legend.replaceChildren(...model.get("curves").map(entry));
  }

  function moveTo(epoch) {
    place = scale && Math.min(Math.max(Math.round(epoch), Math.ceil(scale.left)), Math.floor(scale.right));
    draw();
  }

  canvas.addEventListener("pointermove", (event) => {
    if (!scale) return;
    const share = (event.offsetX - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    moveTo(scale.left + share * (scale.right - scale.left));
  });
  canvas.addEventListener("pointerleave", () => {
    place = null;
    draw();
  });
  canvas.addEventListener("keydown", (event) => {
    const targets = { ArrowLeft: (place ?? scale?.right + 1) - 1, ArrowRight: (place ?? scale?.left - 1) + 1, Home: scale?.left, End: scale?.right };
    if (!scale || !(event.key in targets)) return;
    event.preventDefault();
    event.stopPropagation();
    moveTo(targets[event.key]);
  });
  const redraw = () => {
    place = null;
    drawLegend();
    draw();
  };
  listen(model, "change:curves", redraw, el);
  listen(model, "change:quantity", draw, el);
  onThemeChange(el, draw);
  redraw();
  return root;
}
