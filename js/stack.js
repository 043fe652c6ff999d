// A stack of images and its attention as numbers: which weight lies where, and which colour it has. Nothing here draws.
import { typedArray } from "./common.js";

// What Python sent of a case, as numbers.
export function readStack(model) {
  const shown = model.get("shown");
  const [count, height, width] = shown.shape;
  const maps = model.get("weights").map((bytes) => typedArray(bytes, Float32Array));
  const attention = shown.attention.map((facts, i) => readAttention(facts, maps[i], height, width));
  const lesion = shown.has_lesion && typedArray(model.get("lesion"), Uint8Array);
  const samples = shown.shape[3] ?? 1; // per pixel: grey, or red, green and blue
  const stack = { ...shown, count, height, width, size: height * width, samples, lesion, attention };
  stack.images = new Uint8Array(count * stack.size * samples);
  stack.images.set(typedArray(model.get("first"), Uint8Array), attention[0].critical * stack.size * samples);
  takeImages(stack, model);
  return stack;
}

// The critical image comes with the case, the others after it in one piece.
export function takeImages(stack, model) {
  const sent = typedArray(model.get("images"), Uint8Array);
  stack.isWhole = sent.length > 0;
  if (stack.isWhole) stack.images = sent;
}

export const hasArrived = (stack, image) => stack.isWhole || image === stack.attention[0].critical;

// For each pixel of an image, the place of the map that lies over it.
function placesOfPixels(rows, columns, height, width) {
  const places = new Int32Array(height * width);
  for (let row = 0; row < height; row++) {
    const first = columns * Math.floor((row + 0.5) * (rows / height));
    for (let column = 0; column < width; column++) {
      places[row * width + column] = first + Math.floor((column + 0.5) * (columns / width));
    }
  }
  return places;
}

function readAttention({ shape: [count, rows, columns], ...facts }, weights, height, width) {
  const size = rows * columns;
  const largest = new Float32Array(count); // of each image
  for (let image = 0; image < count; image++) {
    for (let i = image * size; i < (image + 1) * size; i++) {
      if (weights[i] > largest[image]) largest[image] = weights[i];
    }
  }
  const critical = largest.reduce((best, weight, image) => (weight > largest[best] ? image : best), 0);
  return { ...facts, weights, size, places: placesOfPixels(rows, columns, height, width), largest, critical };
}

export const weightAt = (attention, image, pixel) =>
  attention.weights[image * attention.size + attention.places[pixel]];

// The grey value of a pixel, or its red, green and blue.
export function samplesAt(stack, image, pixel) {
  const first = (image * stack.size + pixel) * stack.samples;
  return Array.from(stack.images.subarray(first, first + stack.samples));
}

export function isInLesion(stack, image, pixel) {
  const bit = image * stack.size + pixel;
  return ((stack.lesion[bit >> 3] >> (7 - (bit & 7))) & 1) === 1;
}

// The weight that full colour stands for.
export const fullValue = (attention, image, scaling) =>
  attention.largest[scaling === "case" ? attention.critical : image];

// Write one image with its attention over it into `pixels` (red, green, blue, opaque); the same as `tint` in Python.
export function tint(pixels, stack, attention, image, { scaling, opacity, threshold, colours }) {
  const full = fullValue(attention, image, scaling) || 1;
  const { images, size, samples } = stack;
  for (let pixel = 0; pixel < size; pixel++) {
    const share = weightAt(attention, image, pixel) / full;
    const covered = share >= threshold ? opacity : 0;
    const colour = 3 * Math.min(255, Math.floor(share * 256));
    const first = (image * size + pixel) * samples;
    for (let part = 0; part < 3; part++) {
      const value = images[first + (samples === 3 ? part : 0)];
      pixels[4 * pixel + part] = value + covered * (colours[colour + part] - value);
    }
    pixels[4 * pixel + 3] = 255;
  }
}

// The lesion's border as a path along the edges of its pixels; one unit is one pixel.
export function lesionOutline(stack, image) {
  const path = new Path2D();
  const { height, width } = stack;
  const isInside = (row, column) => {
    const isInImage = row >= 0 && column >= 0 && row < height && column < width;
    return isInImage && isInLesion(stack, image, row * width + column);
  };
  for (let row = 0; row <= height; row++) {
    for (let column = 0; column <= width; column++) {
      const here = isInside(row, column);
      if (here !== isInside(row - 1, column)) addEdge(path, [column, row], [column + 1, row]);
      if (here !== isInside(row, column - 1)) addEdge(path, [column, row], [column, row + 1]);
    }
  }
  return path;
}

function addEdge(path, start, end) {
  path.moveTo(...start);
  path.lineTo(...end);
}
