// The selector's pictures, each a function that draws on a context `width` wide; colours are those of `pageColours`.
import { formatNumber } from "./common.js";
import { valueOnCurve } from "./selection.js";
import { THUMBNAILS } from "./selector_state.js";

const FONT = "11px system-ui, sans-serif";
const MARGIN = { left: 52, right: 8 };
export const HEIGHTS = { bars: 200, temperatures: 384 };

// Three digits; a very small number by its power of ten.
export function threeDigits(value) {
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(3)));
}

// The smallest of 1, 2, 5, 10, … (times a power of ten) that is no less than `value`.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value * (1 - 1e-9)) * power;
}

function drawText(context, text, [x, y], colour, { align = "center", widest = undefined } = {}) {
  context.font = FONT;
  context.fillStyle = colour;
  context.textAlign = align;
  context.fillText(text, x, y, widest);
}

function drawLine(context, points, colour, { width = 1, dash = [], alpha = 1 } = {}) {
  context.save();
  Object.assign(context, { strokeStyle: colour, lineWidth: width, globalAlpha: alpha });
  context.setLineDash(dash);
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y);
  context.stroke();
  context.restore();
}

function drawDot(context, [x, y], radius, colour, { isFilled = true } = {}) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  Object.assign(context, { fillStyle: colour, strokeStyle: colour, lineWidth: 2 });
  if (isFilled) context.fill();
  else context.stroke();
}

// A faint line across at height `y`, and its value at its left.
function drawGridLine(context, { left, right, y, text }, colours) {
  const middle = y + 0.5; // of a row of pixels, so that the line is sharp
  const ends = [
    [left, middle],
    [right, middle],
  ];
  drawLine(context, ends, colours.line, { alpha: 0.5 });
  drawText(context, text, [left - 6, y + 4], colours.faint, { align: "right" });
}

// Where the bars stand: in `columns`, fewer than instances where these outnumber the page's points.
export function placeBars(width, count) {
  const across = width - MARGIN.left - MARGIN.right;
  const columns = Math.min(count, Math.floor(across));
  return {
    columns,
    columnOf: (row) => Math.floor((row * columns) / count),
    left: (column) => Math.round(MARGIN.left + (column * across) / columns),
    middle: (row) => MARGIN.left + ((row + 0.5) * across) / count,
    rowAt: (x) => Math.max(0, Math.min(count - 1, Math.floor(((x - MARGIN.left) / across) * count))),
  };
}

// The bars of the instances that show the finding (`shows` 1) or of the others (0). Of several instances in one column
// the highest stands for all.
function fillBars(context, place, { weights, finding, shows, y, bottom }) {
  const heights = new Float64Array(place.columns);
  weights.forEach((weight, row) => {
    if ((finding[row] ?? 0) !== shows) return;
    const column = place.columnOf(row);
    if (weight > heights[column]) heights[column] = weight;
  });
  heights.forEach((weight, column) => {
    if (weight <= 0) return;
    const left = place.left(column);
    const wide = place.left(column + 1) - left;
    context.fillRect(left, y(weight), wide > 3 ? wide - 1 : wide, bottom - y(weight));
  });
}

export function drawBars(context, width, { weights, largest, finding, cursor }, colours) {
  const [top, bottom] = [8, HEIGHTS.bars - 20];
  const [left, right] = [MARGIN.left, width - MARGIN.right];
  const highest = roundUp(largest);
  const y = (weight) => bottom - (weight / highest) * (bottom - top);
  const place = placeBars(width, weights.length);
  context.clearRect(0, 0, width, HEIGHTS.bars);
  for (const value of [0, highest / 2, highest]) {
    drawGridLine(context, { left, right, y: y(value), text: threeDigits(value) }, colours);
  }
  if (cursor !== null) {
    const x = place.middle(cursor);
    const ends = [
      [x, top],
      [x, bottom],
    ];
    drawLine(context, ends, colours.mark, { alpha: 0.5 });
    drawText(context, "▲", [x, bottom + 10], colours.mark);
  }
  for (const shows of [0, 1]) {
    context.fillStyle = shows ? colours.finding : colours.instance;
    fillBars(context, place, { weights, finding, shows, y, bottom });
  }
  const uniform = y(1 / weights.length) + 0.5;
  const ends = [
    [left, uniform],
    [right, uniform],
  ];
  drawLine(context, ends, colours.text, { dash: [2, 3] });
  const step = Math.max(1, roundUp(weights.length / 8));
  for (let number = 1; number <= weights.length; number = number < step ? step : number + step) {
    drawText(context, String(number), [place.middle(number - 1), bottom + 14], colours.faint);
  }
}

const CAPTION = 44; // three lines below each thumbnail
const LEADER = 20; // from a bar to its thumbnail

function thumbnailSide(width) {
  return Math.min(88, (width - MARGIN.left - MARGIN.right) / THUMBNAILS - 8);
}

export function thumbnailHeight(width) {
  return LEADER + thumbnailSide(width) + CAPTION;
}

// The boxes of the thumbnails, in the order of the case, so that no two of the lines to their bars cross.
export function placeThumbnails(width, rows) {
  const slot = (width - MARGIN.left - MARGIN.right) / rows.length;
  const side = thumbnailSide(width);
  const left = (i) => MARGIN.left + i * slot + (slot - side) / 2;
  return rows.toSorted((a, b) => a - b).map((row, i) => ({ row, left: left(i), top: LEADER, side }));
}

// An image in the middle of its box, as large as the box.
function drawImage(context, image, { left, top, side }) {
  const scale = side / Math.max(image.width, image.height);
  const [wide, high] = [image.width * scale, image.height * scale];
  context.drawImage(image, left + side / 2 - wide / 2, top + (side - high) / 2, wide, high);
}

export function drawThumbnails(context, width, { boxes, images, scores, weights, finding, cursor }, colours) {
  const place = placeBars(width, weights.length);
  context.clearRect(0, 0, width, thumbnailHeight(width));
  for (const box of boxes) {
    const { row, left, top, side } = box;
    const middle = left + side / 2;
    const ofKind = finding[row] ? colours.finding : colours.instance;
    const colour = row === cursor ? colours.mark : ofKind;
    const ends = [
      [place.middle(row), 0],
      [middle, top - 2],
    ];
    drawLine(context, ends, colour, { alpha: 0.8 });
    if (images.has(row)) drawImage(context, images.get(row), box);
    Object.assign(context, { strokeStyle: colour, lineWidth: 2 });
    context.strokeRect(left, top, side, side);
    drawText(context, String(row + 1), [middle, top + side + 14], colours.text);
    drawText(context, threeDigits(scores[row]), [middle, top + side + 27], colours.faint);
    drawText(context, threeDigits(weights[row]), [middle, top + side + 40], colours.faint);
  }
  if (!boxes.length) return;
  const { top, side } = boxes[0];
  ["instance", "score", "weight"].forEach((name, i) => {
    drawText(context, name, [MARGIN.left - 6, top + side + 14 + 13 * i], colours.faint, { align: "right" });
  });
}

const ABOVE = { top: 20, bottom: 160 }; // the probability
const BELOW = { top: 196, bottom: HEIGHTS.temperatures - 34 }; // the epochs

// How temperatures, probabilities and epochs lie on a canvas `width` wide.
function temperatureScales(width, { temperature_range: [low, high], schedule, epochs }) {
  const [left, right] = [MARGIN.left, width - 14];
  const last = Math.max(schedule.length - 1, ...epochs, 1);
  return {
    left,
    right,
    last,
    x: (value) => left + (Math.log(value / low) / Math.log(high / low)) * (right - left),
    probabilityY: (value) => ABOVE.bottom - value * (ABOVE.bottom - ABOVE.top),
    epochY: (value) => BELOW.bottom - (value / last) * (BELOW.bottom - BELOW.top),
  };
}

function drawUpright(context, x, colour, options) {
  for (const { top, bottom } of [ABOVE, BELOW]) {
    const ends = [
      [x, top],
      [x, bottom],
    ];
    drawLine(context, ends, colour, options);
  }
}

function drawTemperatureAxes(context, scales, now, colours) {
  const { left, right, last, x, probabilityY, epochY } = scales;
  const [low, high] = now.temperature_range;
  drawText(context, now.probabilityOf, [left, 10], colours.text, { align: "left", widest: right - left });
  const title = "each epoch of the training, at its temperature";
  drawText(context, title, [left, BELOW.top - 10], colours.text, { align: "left" });
  for (const value of [0, 0.5, 1]) {
    drawGridLine(context, { left, right, y: probabilityY(value), text: String(value) }, colours);
  }
  for (const value of [0, last]) {
    drawGridLine(context, { left, right, y: epochY(value), text: String(value + 1) }, colours);
  }
  for (let power = low; power <= high * 1.001; power *= 10) {
    drawUpright(context, x(power), colours.line, { alpha: 0.3 });
    drawText(context, formatNumber(power), [x(power), BELOW.bottom + 14], colours.faint);
  }
  drawText(context, "temperature", [(left + right) / 2, HEIGHTS.temperatures - 4], colours.faint);
}

function drawEpochs(context, { right, x, epochY }, now, colours) {
  const { schedule, epochs, temperatures, epoch, kept_epoch: keptEpoch } = now;
  const label = (value, temperature, text) => {
    const isRight = x(temperature) > right - 90;
    const place = [x(temperature) + (isRight ? -9 : 9), epochY(value) + 4];
    drawText(context, text, place, colours.text, { align: isRight ? "right" : "left" });
  };
  const own = temperatures[epochs.indexOf(epoch)];
  drawDot(context, [x(own), epochY(epoch)], 5, colours.mark, { isFilled: false });
  label(epoch, own, `epoch ${epoch + 1}${now.isKept ? ", kept" : ""}`);
  const kept = temperatures[epochs.indexOf(keptEpoch)] ?? schedule[keptEpoch];
  if (kept && Math.abs(epochY(epoch) - epochY(keptEpoch)) > 12) label(keptEpoch, kept, "kept");
}

// Above, the bag's probability over the temperature; below, on the same axis, the temperature of each epoch.
export function drawTemperatures(context, width, now, colours) {
  const scales = temperatureScales(width, now);
  const { left, right, x, probabilityY, epochY } = scales;
  const { schedule, epochs, temperatures, temperature, curve } = now;
  context.clearRect(0, 0, width, HEIGHTS.temperatures);
  drawTemperatureAxes(context, scales, now, colours);
  const scheduled = schedule.map((value, i) => [x(value), epochY(i)]);
  drawLine(context, scheduled, colours.faint);
  epochs.forEach((value, i) => {
    drawDot(context, [x(temperatures[i]), epochY(value)], 2.5, colours.instance);
  });
  drawUpright(context, x(temperature), colours.mark, { dash: [4, 3] });
  drawEpochs(context, scales, now, colours);
  if (!curve.length) return;
  const step = (right - left) / (curve.length - 1);
  const points = Array.from(curve, (value, i) => [left + i * step, probabilityY(value)]);
  drawLine(context, points, colours.instance, { width: 2, dash: now.isKept ? [] : [6, 3] });
  const here = valueOnCurve(curve, now.temperature_range, temperature);
  drawDot(context, [x(temperature), probabilityY(here)], 4.5, colours.mark);
}
