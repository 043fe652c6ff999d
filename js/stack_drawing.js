// What is drawn of a stack: the picture, the colour bar and the strip of weights. Colours are the page's own; sizes are
// in page pixels.
import { formatNumber } from "./common.js";
import { fullValue, tint } from "./stack.js";

export const STRIP = { height: 84, top: 16, base: 62 };
export const BAR = { height: 30, band: 12 };

// One image of a pane: tinted, with the lesion's `border` (a path) and the `point` that is read out over it.
export function drawPicture(pane, stack, attention, { image, look, border, point, colours }) {
  const { zoom, small, pixels } = pane;
  const { context } = pane.picture;
  tint(pixels.data, stack, attention, image, look);
  small.putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = zoom < 1;
  context.drawImage(small.canvas, 0, 0, pane.width, pane.height);
  context.save();
  context.scale(zoom, zoom);
  if (border) {
    strokePath(context, border, "#000a", 4 / zoom);
    strokePath(context, border, colours.finding, 2 / zoom);
  }
  if (point) {
    context.strokeStyle = colours.mark;
    context.lineWidth = 1.5 / zoom;
    context.strokeRect(point.column, point.row, 1, 1);
  }
  context.restore();
}

function strokePath(context, path, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke(path);
}

// The colours from 0 to the weight that full colour stands for; what the threshold leaves unpainted stays empty.
// `full` is the line below it, which says that in words.
export function drawBar({ bar, full, wide }, attention, { image, look, colours }) {
  const { canvas, context } = bar;
  const largest = fullValue(attention, image, look.scaling);
  const drawn = [largest, look.scaling, look.threshold, look.map, colours.text].join();
  if (bar.drawn === drawn) return; // while one scrolls, it mostly stays as it is
  bar.drawn = drawn;
  context.clearRect(0, 0, wide, BAR.height);
  for (let x = 0; x < wide; x++) {
    const share = (x + 0.5) / wide;
    if (share < look.threshold) continue;
    const [red, green, blue] = look.colours.subarray(3 * Math.floor(share * 256));
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    context.fillRect(x, 0, 1, BAR.band);
  }
  context.strokeStyle = colours.line;
  context.strokeRect(0.5, 0.5, wide - 1, BAR.band - 1);
  drawTexts(context, colours, BAR.height - 4, [
    ["left", 0, "0"],
    ["center", wide / 2, formatNumber(largest / 2)],
    ["right", wide, formatNumber(largest)],
  ]);
  canvas.setAttribute("aria-label", `colour bar from 0 to ${formatNumber(largest)}`);
  full.textContent = describeScale(largest, look, attention);
}

function describeScale(largest, { scaling, threshold }, attention) {
  const what = scaling === "case" ? "the largest weight of the whole case" : "the largest weight of this image alone";
  const sentences = [`Full colour stands for ${formatNumber(largest)}, ${what}.`];
  if (scaling === "image" && attention.size === 1) {
    sentences.push("With one weight per image, every image has full colour.");
  }
  if (threshold > 0) sentences.push(`Below ${formatNumber(threshold * largest)} nothing is painted.`);
  return sentences.join(" ");
}

// The weight of every image as a bar. Images with a lesion have another colour and are underlined, since a weight of 0
// has no bar.
export function drawStrip({ strip: { canvas, context }, wide }, stack, attention, { image, colours }) {
  const step = wide / stack.count;
  const most = attention.largest[attention.critical];
  const { top, base, height } = STRIP;
  context.clearRect(0, 0, wide, height);
  attention.largest.forEach((weight, i) => {
    const tall = most > 0 ? ((base - top) * weight) / most : 0;
    context.fillStyle = stack.has_lesion?.[i] ? colours.finding : colours.instance;
    context.fillRect(i * step, base - tall, Math.max(1, step - 0.5), tall);
    if (stack.has_lesion?.[i]) context.fillRect(i * step, base + 1, Math.max(1, step), 3);
  });
  context.fillStyle = colours.line;
  context.fillRect(0, base, wide, 1);
  context.fillStyle = colours.text;
  context.fillRect((image + 0.5) * step - 1, top - 2, 2, base - top + 7); // where one is
  const what = attention.size === 1 ? "weight of each image" : "largest weight in each image";
  drawTexts(context, colours, 11, [["left", 0, `${what}, up to ${formatNumber(most)}`]]);
  drawTexts(context, colours, height - 6, [
    ["left", 0, "1"],
    ["right", wide, String(stack.count)],
  ]);
  const critical = `the largest, ${formatNumber(most)}, at image ${attention.critical + 1}`;
  const here = `${formatNumber(attention.largest[image])} at image ${image + 1}`;
  canvas.setAttribute("aria-label", `${what}: ${critical}; ${here}`);
}

// Texts on one line at height `y`, each with its alignment and place.
function drawTexts(context, colours, y, texts) {
  context.fillStyle = colours.faint;
  context.font = `11px ${colours.font}`;
  for (const [align, x, text] of texts) {
    context.textAlign = align;
    context.fillText(text, x, y);
  }
}
