// What the selector shows, from what Python sent and what the person chose.
import { element, numbers } from "./common.js";
import { ranked, scoresOf, selectionWeights, sharpness } from "./selection.js";

export const THUMBNAILS = 6; // as in selector.py

// What `compute` gave last, until one of its inputs is another one.
function remembered(compute) {
  let before = [];
  let result;
  return (...inputs) => {
    if (inputs.length !== before.length || inputs.some((input, i) => input !== before[i])) {
      before = inputs;
      result = compute(...inputs);
    }
    return result;
  };
}

// The images of the thumbnails by their rows, as canvases that can be drawn.
function thumbnailImages(bytes, shape, rows) {
  if (!shape.length) return new Map();
  const [, height, width, channels] = shape;
  const pixels = numbers(bytes, Uint8Array);
  return new Map(rows.map((row, i) => {
    const data = new ImageData(width, height);
    for (let point = 0; point < width * height; point++) {
      const from = (i * width * height + point) * channels;
      for (let channel = 0; channel < 3; channel++) data.data[4 * point + channel] = pixels[from + (channels === 1 ? 0 : channel)];
      data.data[4 * point + 3] = 255;
    }
    const canvas = element("canvas", { width, height });
    canvas.getContext("2d", { willReadFrequently: true }).putImageData(data, 0, 0); // beside the surfaces: a copy from a graphics card is slow
    return [row, canvas];
  }));
}

// The scores of one epoch, and rows from the highest to the lowest: of the scores and, for the thumbnails, of the logits.
function epochScores(bytes, epochs, epoch, kind) {
  const all = numbers(bytes, Float32Array);
  const size = all.length / epochs.length;
  const start = epochs.indexOf(epoch) * size;
  const logits = all.subarray(start, start + size);
  const scores = scoresOf(logits, kind);
  return { scores, order: ranked(scores), highest: ranked(logits).subarray(0, THUMBNAILS) };
}

// A function that gives all that is shown now.
export function reader(model) {
  const get = (name) => model.get(name);
  const [chosen, images] = [remembered(epochScores), remembered(thumbnailImages)];
  const isAnswer = (trait, question) => String(get(trait)) === String(question);
  return () => {
    const [mode, kind, k, epoch, temperature] = ["mode", "scores", "k", "epoch", "temperature"].map(get);
    const { scores, order, highest } = chosen(get("logits"), get("epochs"), epoch, kind);
    const weights = selectionWeights(scores, order, mode, k, temperature);
    const hasThumbnails = isAnswer("thumbnails_of", [get("case"), epoch]);
    const hasCurve = isAnswer("curve_of", [get("case"), mode, kind, mode === "top_k" ? k : 0]);
    return {
      title: get("title"), scores, weights, mode, temperature, epoch, ...sharpness(weights),
      critical: order[0], largest: weights[order[0]],
      finding: numbers(get("finding"), Uint8Array),
      highest: hasThumbnails && get("thumbnail_message") ? [] : Array.from(highest),
      images: hasThumbnails ? images(get("thumbnails"), get("thumbnail_shape"), get("thumbnail_rows")) : new Map(),
      thumbnailMessage: hasThumbnails ? get("thumbnail_message") : "",
      curve: hasCurve ? numbers(get("curve"), Float32Array) : new Float32Array(),
      curveMessage: hasCurve ? get("curve_message") : "The curve is being worked out…",
      probabilityOf: `probability${get("positive") && ` of ${get("positive")}`}`, keptEpoch: get("kept_epoch"), isKept: epoch === get("kept_epoch"),
      range: get("temperature_range"), schedule: get("schedule"), epochs: get("epochs"), temperatures: get("temperatures"),
    };
  };
}
