// The selector's pictures, each a function that draws on a context as wide as it is told; colours as `theme` gives them.
import { written } from "./common.js";
import { onCurve } from "./selection.js";
import { THUMBNAILS } from "./selector_state.js";

const FONT = "11px system-ui, sans-serif";
const MARGIN = { left: 52, right: 8 };
export const HEIGHTS = { bars: 200, temperatures: 384 };

// Three digits; a very small number by its power of ten.
export function three(value) {
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(3)));
}

// The smallest of 1, 2, 5, 10, … (times a power of ten) that is no less than `value`.
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value * (1 - 1e-9)) * power;
}

function label(context, text, x, y, colour, align = "center", widest = undefined) {
  context.font = FONT;
  context.fillStyle = colour;
  context.textAlign = align;
  context.fillText(text, x, y, widest);
}

function line(context, points, colour, { width = 1, dash = [], alpha = 1 } = {}) {
  context.save();
  Object.assign(context, { strokeStyle: colour, lineWidth: width, globalAlpha: alpha });
  context.setLineDash(dash);
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x, y));
  context.stroke();
  context.restore();
}

function dot(context, x, y, radius, colour, isFilled = true) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  Object.assign(context, { fillStyle: colour, strokeStyle: colour, lineWidth: 2 });
  isFilled ? context.fill() : context.stroke();
}

// Where the bars stand: `columns` of them, fewer than instances where these outnumber the page's points.
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

export function drawBars(context, width, { weights, largest, finding, cursor }, colours) {
  const top = 8;
  const bottom = HEIGHTS.bars - 20;
  const highest = rounded(largest);
  const y = (weight) => bottom - (weight / highest) * (bottom - top);
  const place = placeBars(width, weights.length);
  context.clearRect(0, 0, width, HEIGHTS.bars);
  for (const value of [0, highest / 2, highest]) {
    line(context, [[MARGIN.left, y(value) + 0.5], [width - MARGIN.right, y(value) + 0.5]], colours.line, { alpha: 0.5 });
    label(context, three(value), MARGIN.left - 6, y(value) + 4, colours.faint, "right");
  }
  if (cursor !== null) {
    const x = place.middle(cursor);
    line(context, [[x, top], [x, bottom]], colours.mark, { alpha: 0.5 });
    label(context, "▲", x, bottom + 10, colours.mark);
  }
  for (const [shows, colour] of [[0, colours.instance], [1, colours.finding]]) {
    const heights = new Float64Array(place.columns); // the highest of a column stands for it
    weights.forEach((weight, row) => {
      if ((finding[row] ?? 0) !== shows) return;
      const column = place.columnOf(row);
      if (weight > heights[column]) heights[column] = weight;
    });
    context.fillStyle = colour;
    heights.forEach((weight, column) => {
      const left = place.left(column);
      const wide = place.left(column + 1) - left;
      if (weight > 0) context.fillRect(left, y(weight), wide > 3 ? wide - 1 : wide, bottom - y(weight));
    });
  }
  const uniform = y(1 / weights.length) + 0.5;
  line(context, [[MARGIN.left, uniform], [width - MARGIN.right, uniform]], colours.text, { dash: [2, 3] });
  const step = Math.max(1, rounded(weights.length / 8));
  for (let number = 1; number <= weights.length; number = number < step ? step : number + step) label(context, String(number), place.middle(number - 1), bottom + 14, colours.faint);
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
  return rows.toSorted((a, b) => a - b).map((row, i) => ({ row, left: MARGIN.left + i * slot + (slot - side) / 2, top: LEADER, side }));
}

export function drawThumbnails(context, width, { boxes, images, scores, weights, finding, cursor }, colours) {
  const place = placeBars(width, weights.length);
  context.clearRect(0, 0, width, thumbnailHeight(width));
  for (const { row, left, top, side } of boxes) {
    const middle = left + side / 2;
    const colour = finding[row] ? colours.finding : colours.instance;
    line(context, [[place.middle(row), 0], [middle, top - 2]], row === cursor ? colours.mark : colour, { alpha: 0.8 });
    const image = images.get(row);
    if (image) {
      const scale = side / Math.max(image.width, image.height);
      context.drawImage(image, middle - (image.width * scale) / 2, top + (side - image.height * scale) / 2, image.width * scale, image.height * scale);
    }
    Object.assign(context, { strokeStyle: row === cursor ? colours.mark : colour, lineWidth: 2 });
    context.strokeRect(left, top, side, side);
    label(context, String(row + 1), middle, top + side + 14, colours.text);
    label(context, three(scores[row]), middle, top + side + 27, colours.faint);
    label(context, three(weights[row]), middle, top + side + 40, colours.faint);
  }
  if (!boxes.length) return;
  const { top, side } = boxes[0];
  ["instance", "score", "weight"].forEach((name, i) => label(context, name, MARGIN.left - 6, top + side + 14 + 13 * i, colours.faint, "right"));
}

// Above, the bag's probability over the temperature; below, on the same axis, the temperature of each epoch.
export function drawTemperatures(context, width, { probabilityOf, range, temperature, curve, isKept, keptEpoch, schedule, epochs, temperatures, epoch }, colours) {
  const [low, high] = range;
  const [left, right] = [MARGIN.left, width - 14];
  const x = (value) => left + (Math.log(value / low) / Math.log(high / low)) * (right - left);
  const [above, below] = [{ top: 20, bottom: 160 }, { top: 196, bottom: HEIGHTS.temperatures - 34 }];
  const probability = (value) => above.bottom - value * (above.bottom - above.top);
  const last = Math.max(schedule.length - 1, ...epochs, 1);
  const time = (value) => below.bottom - (value / last) * (below.bottom - below.top);
  context.clearRect(0, 0, width, HEIGHTS.temperatures);
  label(context, probabilityOf, left, 10, colours.text, "left", right - left);
  label(context, "each epoch of the training, at its temperature", left, below.top - 10, colours.text, "left");
  for (const value of [0, 0.5, 1]) {
    line(context, [[left, probability(value) + 0.5], [right, probability(value) + 0.5]], colours.line, { alpha: 0.5 });
    label(context, String(value), left - 6, probability(value) + 4, colours.faint, "right");
  }
  for (const value of [0, last]) {
    line(context, [[left, time(value) + 0.5], [right, time(value) + 0.5]], colours.line, { alpha: 0.5 });
    label(context, String(value + 1), left - 6, time(value) + 4, colours.faint, "right");
  }
  for (let power = low; power <= high * 1.001; power *= 10) {
    for (const { top, bottom } of [above, below]) line(context, [[x(power), top], [x(power), bottom]], colours.line, { alpha: 0.3 });
    label(context, written(power), x(power), below.bottom + 14, colours.faint);
  }
  label(context, "temperature", (left + right) / 2, HEIGHTS.temperatures - 4, colours.faint);
  line(context, schedule.map((value, i) => [x(value), time(i)]), colours.faint);
  epochs.forEach((value, i) => dot(context, x(temperatures[i]), time(value), 2.5, colours.instance));
  for (const { top, bottom } of [above, below]) line(context, [[x(temperature), top], [x(temperature), bottom]], colours.mark, { dash: [4, 3] });
  const name = (value, degree, text) => {
    const isRight = x(degree) > right - 90;
    label(context, text, x(degree) + (isRight ? -9 : 9), time(value) + 4, colours.text, isRight ? "right" : "left");
  };
  const own = temperatures[epochs.indexOf(epoch)];
  dot(context, x(own), time(epoch), 5, colours.mark, false);
  name(epoch, own, `epoch ${epoch + 1}${isKept ? ", kept" : ""}`);
  const kept = temperatures[epochs.indexOf(keptEpoch)] ?? schedule[keptEpoch];
  if (kept && Math.abs(time(epoch) - time(keptEpoch)) > 12) name(keptEpoch, kept, "kept");
  if (!curve.length) return;
  const step = (right - left) / (curve.length - 1);
  line(context, Array.from(curve, (value, i) => [left + i * step, probability(value)]), colours.instance, { width: 2, dash: isKept ? [] : [6, 3] });
  dot(context, x(temperature), probability(onCurve(curve, range, temperature)), 4.5, colours.mark);
}
