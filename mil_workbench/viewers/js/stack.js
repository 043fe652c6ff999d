// A stack of images and its attention as numbers: which weight lies where, and which colour it has. Nothing here knows the page.
import { numbers } from "./common.js";

export function readStack(model) {
  const shown = model.get("shown");
  const [count, height, width] = shown.shape;
  const attention = shown.attention.map((about, i) => readAttention(about, numbers(model.get("weights")[i], Float32Array), height, width));
  const lesion = shown.has_lesion && numbers(model.get("lesion"), Uint8Array);
  const stack = { ...shown, count, height, width, size: height * width, samples: shown.shape[3] ?? 1, lesion, attention };
  stack.images = new Uint8Array(count * stack.size * stack.samples);
  stack.images.set(numbers(model.get("first"), Uint8Array), attention[0].critical * stack.size * stack.samples);
  takeImages(stack, model);
  return stack;
}

// The critical image comes with the case, the others after it, in one piece.
export function takeImages(stack, model) {
  const sent = numbers(model.get("images"), Uint8Array);
  stack.isWhole = sent.length > 0;
  if (stack.isWhole) stack.images = sent;
}

export const isThere = (stack, image) => stack.isWhole || image === stack.attention[0].critical;

function readAttention({ shape: [count, rows, columns], ...said }, weights, height, width) {
  const place = new Int32Array(height * width); // which place of the map lies over each pixel
  for (let row = 0; row < height; row++) {
    const first = columns * Math.floor((row + 0.5) * (rows / height));
    for (let column = 0; column < width; column++) place[row * width + column] = first + Math.floor((column + 0.5) * (columns / width));
  }
  const size = rows * columns;
  const largest = new Float32Array(count);
  for (let i = 0, image = 0; image < count; image++) {
    let most = 0;
    for (const end = i + size; i < end; i++) if (weights[i] > most) most = weights[i];
    largest[image] = most;
  }
  const critical = largest.reduce((best, weight, image) => (weight > largest[best] ? image : best), 0);
  return { ...said, weights, size, place, largest, critical };
}

export const weightAt = (attention, image, pixel) => attention.weights[image * attention.size + attention.place[pixel]];

export const greyAt = (stack, image, pixel) => Array.from({ length: stack.samples }, (_, sample) => stack.images[(image * stack.size + pixel) * stack.samples + sample]);

export function inLesion(stack, image, pixel) {
  const bit = image * stack.size + pixel;
  return ((stack.lesion[bit >> 3] >> (7 - (bit & 7))) & 1) === 1;
}

// The weight that full colour stands for.
export const fullValue = (attention, image, scaling) => attention.largest[scaling === "case" ? attention.critical : image];

// One image with its weights laid over, into `pixels` (red, green, blue, opaque); the same as `tint` in Python.
export function paint(pixels, stack, attention, image, { scaling, opacity, threshold, colours }) {
  const full = fullValue(attention, image, scaling) || 1;
  const { images, size, samples } = stack;
  for (let pixel = 0; pixel < size; pixel++) {
    const share = weightAt(attention, image, pixel) / full;
    const covered = share >= threshold ? opacity : 0;
    const colour = 3 * Math.min(255, Math.floor(share * 256));
    const grey = (image * size + pixel) * samples;
    for (let part = 0; part < 3; part++) {
      const value = images[grey + (samples === 3 ? part : 0)];
      pixels[4 * pixel + part] = value + covered * (colours[colour + part] - value);
    }
    pixels[4 * pixel + 3] = 255;
  }
}

// The lesion's border as a path along the edges of its pixels; one unit is one pixel.
export function outline(stack, image) {
  const path = new Path2D();
  const { height, width } = stack;
  const inside = (row, column) => row >= 0 && column >= 0 && row < height && column < width && inLesion(stack, image, row * width + column);
  for (let row = 0; row <= height; row++) {
    for (let column = 0; column <= width; column++) {
      const here = inside(row, column);
      if (here !== inside(row - 1, column)) line(path, column, row, column + 1, row);
      if (here !== inside(row, column - 1)) line(path, column, row, column, row + 1);
    }
  }
  return path;
}

function line(path, x, y, toX, toY) {
  path.moveTo(x, y);
  path.lineTo(toX, toY);
}
