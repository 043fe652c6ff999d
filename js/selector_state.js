// What the selector viewer shows, from what Python sent and what the person chose.
import { element, typedArray } from "./common.js";
import { rankRows, scoresOf, selectionWeights, sharpness } from "./selection.js";

export const THUMBNAILS = 6; // as in viewers/selection.py

// Returns what `compute` returned last, until one of its inputs changes.
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

// The i-th image as a canvas; `shape` is (images, height, width, 1 or 3).
function thumbnailCanvas(pixels, [, height, width, channels], i) {
  const data = new ImageData(width, height);
  for (let point = 0; point < width * height; point++) {
    const first = (i * width * height + point) * channels;
    for (let part = 0; part < 3; part++) data.data[4 * point + part] = pixels[first + (channels === 1 ? 0 : part)];
    data.data[4 * point + 3] = 255;
  }
  const canvas = element("canvas", { width, height });
  // in memory beside the canvases it is drawn on: a copy from a graphics card is slow
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(data, 0, 0);
  return canvas;
}

// The images of the thumbnails by their rows.
function thumbnailImages({ pixels, shape, rows }) {
  if (!shape.length) return new Map();
  const values = typedArray(pixels, Uint8Array);
  return new Map(rows.map((row, i) => [row, thumbnailCanvas(values, shape, i)]));
}

// The scores of one epoch, and rows from the highest to the lowest: of the scores and, for thumbnails, of the logits.
function epochScores({ logits, epochs }, epoch, kind) {
  const all = typedArray(logits, Float32Array);
  const size = all.length / epochs.length;
  const start = epochs.indexOf(epoch) * size;
  const ofEpoch = all.subarray(start, start + size);
  const scores = scoresOf(ofEpoch, kind);
  return { scores, order: rankRows(scores), highest: rankRows(ofEpoch).subarray(0, THUMBNAILS) };
}

const answers = (answer, question) => String(answer.of) === String(question);

// Returns a function that gathers all that is shown now.
export function stateReader(model) {
  const scoresNow = remembered(epochScores);
  const imagesNow = remembered(thumbnailImages);

  function thumbnailsNow(highest, epoch) {
    const sent = model.get("thumbnails");
    if (!answers(sent, [model.get("case"), epoch])) {
      return { highest: Array.from(highest), images: new Map(), thumbnailMessage: "" };
    }
    const rows = sent.message ? [] : Array.from(highest);
    return { highest: rows, images: imagesNow(sent), thumbnailMessage: sent.message };
  }

  function curveNow(mode, kind, k) {
    const sent = model.get("curve");
    if (!answers(sent, [model.get("case"), mode, kind, mode === "top_k" ? k : 0])) {
      return { curve: new Float32Array(), curveMessage: "The curve is being worked out…" };
    }
    return { curve: typedArray(sent.values, Float32Array), curveMessage: sent.message };
  }

  return () => {
    const shown = model.get("shown");
    const [mode, kind, k, epoch, temperature] = ["mode", "scores", "k", "epoch", "temperature"].map((name) =>
      model.get(name),
    );
    const { scores, order, highest } = scoresNow(shown, epoch, kind);
    const weights = selectionWeights(scores, order, { mode, k, temperature });
    return {
      ...shown,
      mode,
      temperature,
      epoch,
      scores,
      weights,
      critical: order[0],
      largest: weights[order[0]],
      ...sharpness(weights),
      finding: typedArray(shown.finding, Uint8Array),
      probabilityOf: shown.positive ? `probability of ${shown.positive}` : "probability",
      isKept: epoch === shown.kept_epoch,
      ...thumbnailsNow(highest, epoch),
      ...curveNow(mode, kind, k),
    };
  };
}
