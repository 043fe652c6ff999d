// A section's tiles, which Python sends, and its attention over them.
import OpenSeadragon from "openseadragon/build/openseadragon/openseadragon.min.js";
import { element, listen, numbers, palette, theme, written } from "./common.js";

export { OpenSeadragon };
const MOST_EDGES = 1500;
const PLAIN = { willReadFrequently: true }; // kept in memory, as OpenSeadragon keeps its tiles: quick without a graphics card as well
const REFRESH = 250; // ms after the last answer until tiles that were not final are asked for again

// Asks Python for tiles and hands them to OpenSeadragon, each as a drawing surface that a later answer can paint over.
export function tileExchange(model, el, onChange) {
  const asked = new Map(), unfinished = new Map(), view = crypto.getRandomValues(new Uint32Array(1))[0];
  let timer, painted = () => {};
  const key = ({ picture, level, x, y }) => `${picture}/${level}/${x}/${y}`;
  const ask = (place) => model.send({ kind: "tile", view, ...place });
  const askAgain = () => unfinished.forEach(({ place }) => ask(place));
  const receive = async (answer, [bytes]) => {
    if (answer.kind !== "tile" || answer.view !== view) return;
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    const name = key(answer), job = asked.get(name);
    const context = job ? new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", PLAIN) : unfinished.get(name)?.context;
    if (!context) return;
    context.drawImage(bitmap, 0, 0);
    asked.delete(name);
    if (answer.final) unfinished.delete(name);
    else unfinished.set(name, { place: job?.place ?? unfinished.get(name).place, context });
    clearTimeout(timer);
    if (unfinished.size) timer = setTimeout(askAgain, REFRESH);
    if (job) job.context.finish(context, null, "context2d");
    else painted();
    onChange(answer.problem);
  };
  listen(model, "msg:custom", receive, el);
  const source = (picture) => {
    asked.clear();
    unfinished.clear();
    const longest = Math.max(picture.width, picture.height), finest = Math.ceil(Math.log2(longest));
    return new OpenSeadragon.TileSource({
      width: picture.width, height: picture.height, tileSize: picture.tile, tileOverlap: 0, maxLevel: finest,
      minLevel: Math.max(0, finest - Math.ceil(Math.log2(Math.max(1, longest / picture.tile)))), // all of it in one tile
      getTileUrl: (level, x, y) => key({ picture: picture.number, level, x, y }),
      hasTransparency: () => false,
      downloadTileStart: (context) => {
        const { level, x, y } = context.tile, place = { picture: picture.number, level, x, y };
        asked.set(key(place), { context, place });
        ask(place);
      },
      downloadTileAbort: (context) => asked.delete(context.src),
    });
  };
  return { source, forget: (url) => unfinished.delete(url), isFinished: () => unfinished.size === 0, onPaint: (draw) => (painted = draw) };
}

// Attention as one small canvas with a pixel for each cell, drawn over the picture in one go.
export function heatLayer(model, el, viewer, legend) {
  const canvas = element("canvas", { class: "mil-heat", "aria-hidden": "true" }), context = canvas.getContext("2d", PLAIN);
  const heat = document.createElement("canvas"), far = document.createElement("canvas"); // all outlines, for when they are too many to be drawn one by one
  const edges = () => numbers(model.get("outline"), Int32Array);
  viewer.canvas.append(canvas);
  const paint = () => {
    const { across, down } = model.get("picture");
    legend.replaceChildren();
    if (!across) return;
    const weights = numbers(model.get("weights"), Float32Array), cells = numbers(model.get("cells"), Int32Array);
    const top = model.get("scale") === "case" ? model.get("largest") : weights.reduce((most, weight) => Math.max(most, weight), 0);
    const colours = palette(model, model.get("colours")), least = model.get("threshold") * top;
    const packed = Uint32Array.from({ length: 256 }, (_, i) => ((255 << 24) | (colours[3 * i + 2] << 16) | (colours[3 * i + 1] << 8) | colours[3 * i]) >>> 0);
    const image = new ImageData(across, down), pixels = new Uint32Array(image.data.buffer), scale = 256 / (top || 1);
    for (let i = 0; i < cells.length; i++) {
      const weight = weights[cells[i]];
      if (weight >= least) pixels[i] = packed[Math.min(255, Math.floor(scale * weight))]; // where there is no patch, there is no weight
    }
    [heat.width, heat.height] = [across, down];
    heat.getContext("2d", PLAIN).putImageData(image, 0, 0);
    const whole = model.get("scale") === "case" ? 1 : weights.reduce((sum, weight) => sum + weight, 0) || 1;
    const stops = Array.from({ length: 17 }, (_, i) => 3 * Math.min(255, 16 * i)).map((at) => `rgb(${colours.subarray(at, at + 3).join()})`);
    const ramp = element("span", { class: "mil-ramp", "aria-hidden": "true", style: `background: linear-gradient(to right, ${stops})` });
    legend.replaceChildren("0 ", ramp, ` ${written(top / whole)} weight ${model.get("scale") === "case" ? "in the case" : "in its section"}`);
  };
  const trace = () => {
    const { across, down } = model.get("picture"), fine = Math.max(2, Math.min(4, Math.floor(4096 / Math.max(across, down))));
    if (!across) return;
    const image = new ImageData(across * fine + 1, down * fine + 1), pixels = new Uint32Array(image.data.buffer), ends = edges();
    for (let i = 0; i < ends.length; i += 4) {
      const isDown = ends[i] === ends[i + 2];
      for (let k = 0; k <= fine; k++) pixels[(ends[i + 1] * fine + (isDown ? k : 0)) * image.width + ends[i] * fine + (isDown ? 0 : k)] = 0xff2a86e6; // the finding's orange
    }
    [far.width, far.height] = [image.width, image.height];
    far.getContext("2d", PLAIN).putImageData(image, 0, 0);
  };
  const outline = (first, step, ratio) => {
    const [left, top] = [-first.x / step - 1, -first.y / step - 1], [right, bottom] = [left + canvas.width / step + 1, top + canvas.height / step + 1], path = new Path2D();
    let near = 0;
    for (let i = 0, ends = edges(); i < ends.length && near < MOST_EDGES; i += 4) {
      if (ends[i] < left || ends[i] > right || ends[i + 1] < top || ends[i + 1] > bottom) continue;
      path.moveTo(ends[i], ends[i + 1]);
      path.lineTo(ends[i + 2], ends[i + 3]);
      near++;
    }
    context.imageSmoothingEnabled = true;
    if (near === MOST_EDGES) return context.drawImage(far, 0, 0, model.get("picture").across, model.get("picture").down);
    for (const [width, colour] of [[4, "#000a"], [2, theme(el).finding]]) {
      context.lineWidth = (width * ratio) / step;
      context.strokeStyle = colour;
      context.stroke(path);
    }
  };
  const draw = () => {
    const item = viewer.world.getItemAt(0), { across, side, origin } = model.get("picture"), ratio = window.devicePixelRatio || 1;
    const [width, height] = [viewer.canvas.clientWidth, viewer.canvas.clientHeight].map((length) => Math.round(length * ratio));
    if (!width) return; // not laid out just now
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!item || !across) return;
    const corner = (x, y) => item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y)).times(ratio);
    const first = corner(...origin), step = (corner(origin[0] + side * across, origin[1]).x - first.x) / across;
    context.setTransform(step, 0, 0, step, first.x, first.y);
    context.imageSmoothingEnabled = false;
    context.globalAlpha = model.get("opacity");
    context.drawImage(heat, 0, 0);
    context.globalAlpha = 1;
    if (model.get("outlines")) outline(first, step, ratio);
  };
  const redo = () => (paint(), draw());
  viewer.addHandler("update-viewport", draw);
  const resized = new ResizeObserver(draw);
  resized.observe(viewer.canvas);
  (el.milEnds ??= []).push(() => resized.disconnect());
  for (const name of ["colours", "threshold", "scale"]) listen(model, `change:${name}`, redo, el);
  for (const name of ["opacity", "outlines"]) listen(model, `change:${name}`, draw, el);
  return { renew: () => (trace(), redo()) };
}
