// Attention over a section, and the outline of its findings, on one canvas above OpenSeadragon's.
import { element, formatNumber, listen, observeSize, pageColours, palette, typedArray } from "./common.js";
import { IN_MEMORY, OpenSeadragon } from "./slide_tiles.js";

const MOST_EDGES = 1500; // drawn one by one; where more are in view, as one picture
const FINDING = 0xff2a86e6; // the finding's orange: opacity, blue, green, red

const sum = (values) => values.reduce((total, value) => total + value, 0);
const largest = (values) => values.reduce((most, value) => Math.max(most, value), 0);

// Colours as numbers of 32 bits, in the order of a canvas' bytes.
function packedColours(colours) {
  const packed = (i) => (255 << 24) | (colours[3 * i + 2] << 16) | (colours[3 * i + 1] << 8) | colours[3 * i];
  return Uint32Array.from({ length: 256 }, (_, i) => packed(i) >>> 0);
}

// Fill `canvas` with one pixel per cell: its colour, or nothing below the threshold and where there is no patch.
function paintCells(canvas, { rows, columns, cells, weights, full, least, colours }) {
  const packed = packedColours(colours);
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const scale = 256 / (full || 1);
  for (let i = 0; i < cells.length; i++) {
    const weight = weights[cells[i]]; // undefined where there is no patch
    if (weight >= least) pixels[i] = packed[Math.min(255, Math.floor(scale * weight))];
  }
  canvas.width = columns;
  canvas.height = rows;
  canvas.getContext("2d", IN_MEMORY).putImageData(image, 0, 0);
}

// Fill `canvas` with all edges, for when too many are in view to be drawn one by one.
function paintEdges(canvas, { rows, columns, edges }) {
  const fine = Math.max(2, Math.min(4, Math.floor(4096 / Math.max(columns, rows)))); // pixels per cell
  const image = new ImageData(columns * fine + 1, rows * fine + 1);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < edges.length; i += 4) {
    const isUpright = edges[i] === edges[i + 2];
    const first = edges[i + 1] * fine * image.width + edges[i] * fine;
    const step = isUpright ? image.width : 1;
    for (let k = 0; k <= fine; k++) pixels[first + k * step] = FINDING;
  }
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d", IN_MEMORY).putImageData(image, 0, 0);
}

// The edges within `box` (in cells) as a path, or null where there are too many.
function edgesInView(edges, { left, top, right, bottom }) {
  const path = new Path2D();
  let count = 0;
  for (let i = 0; i < edges.length; i += 4) {
    if (edges[i] < left || edges[i] > right || edges[i + 1] < top || edges[i + 1] > bottom) continue;
    path.moveTo(edges[i], edges[i + 1]);
    path.lineTo(edges[i + 2], edges[i + 3]);
    count++;
    if (count === MOST_EDGES) return null;
  }
  return path;
}

export function heatLayer(model, el, viewer, legend) {
  const canvas = element("canvas", { class: "mil-heat", "aria-hidden": "true" });
  const context = canvas.getContext("2d", IN_MEMORY);
  const heat = document.createElement("canvas"); // a pixel per cell, scaled up when it is drawn
  const allEdges = document.createElement("canvas");
  viewer.canvas.append(canvas);

  const edges = () => typedArray(model.get("shown").outline, Int32Array);

  function showLegend(colours, full, weights) {
    const isOfCase = model.get("scale") === "case";
    const whole = isOfCase ? 1 : sum(weights) || 1;
    const starts = Array.from({ length: 17 }, (_, i) => 3 * Math.min(255, 16 * i));
    const stops = starts.map((start) => `rgb(${colours.subarray(start, start + 3).join()})`);
    const style = `background: linear-gradient(to right, ${stops})`;
    const ramp = element("span", { class: "mil-ramp", "aria-hidden": "true", style });
    const label = isOfCase ? "weight in the case" : "weight in its section";
    legend.replaceChildren("0 ", ramp, ` ${formatNumber(full / whole)} ${label}`);
  }

  function paint() {
    const shown = model.get("shown");
    legend.replaceChildren();
    if (!shown.number) return;
    const weights = typedArray(shown.weights, Float32Array);
    const cells = typedArray(shown.cells, Int32Array);
    const full = model.get("scale") === "case" ? model.get("largest") : largest(weights);
    const colours = palette(model, model.get("colour_map"));
    const least = model.get("threshold") * full;
    paintCells(heat, { rows: shown.rows, columns: shown.columns, cells, weights, full, least, colours });
    showLegend(colours, full, weights);
  }

  // `step` is the size of a cell and `first` the corner of the first one, in pixels of the canvas.
  function drawOutline(first, step, ratio) {
    const [left, top] = [-first.x / step - 1, -first.y / step - 1];
    const box = { left, top, right: left + canvas.width / step + 1, bottom: top + canvas.height / step + 1 };
    const path = edgesInView(edges(), box);
    context.imageSmoothingEnabled = true;
    if (path === null) {
      context.drawImage(allEdges, 0, 0, model.get("shown").columns, model.get("shown").rows);
      return;
    }
    const lines = [
      [4, "#000a"],
      [2, pageColours(el).finding],
    ];
    for (const [width, colour] of lines) {
      context.lineWidth = (width * ratio) / step;
      context.strokeStyle = colour;
      context.stroke(path);
    }
  }

  function draw() {
    const { columns, side, origin } = model.get("shown");
    const item = viewer.world.getItemAt(0);
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(viewer.canvas.clientWidth * ratio);
    const height = Math.round(viewer.canvas.clientHeight * ratio);
    if (!width) return; // not laid out just now
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!item || !columns) return;
    const onCanvas = (x, y) => item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y)).times(ratio);
    const first = onCanvas(...origin);
    const step = (onCanvas(origin[0] + side * columns, origin[1]).x - first.x) / columns;
    context.setTransform(step, 0, 0, step, first.x, first.y); // from now on one unit is one cell
    context.imageSmoothingEnabled = false;
    context.globalAlpha = model.get("opacity");
    context.drawImage(heat, 0, 0);
    context.globalAlpha = 1;
    if (model.get("outlines")) drawOutline(first, step, ratio);
  }

  function repaint() {
    paint();
    draw();
  }

  function renew() {
    const { number, rows, columns } = model.get("shown");
    if (number) paintEdges(allEdges, { rows, columns, edges: edges() });
    repaint();
  }

  viewer.addHandler("update-viewport", draw);
  observeSize(el, [viewer.canvas], draw);
  for (const name of ["colour_map", "threshold", "scale"]) listen(model, `change:${name}`, repaint, el);
  for (const name of ["opacity", "outlines"]) listen(model, `change:${name}`, draw, el);
  return { renew };
}
