// The tiles of a section: asked of Python, handed to OpenSeadragon.
import OpenSeadragon from "openseadragon/build/openseadragon/openseadragon.min.js";
import { listen } from "./common.js";

export { OpenSeadragon };
export const IN_MEMORY = { willReadFrequently: true }; // as OpenSeadragon has it: quick without a graphics card
const REFRESH = 250; // milliseconds after the last answer until tiles that were not final are asked for again

const nameOf = ({ picture, level, x, y }) => `${picture}/${level}/${x}/${y}`;

// Each tile is a canvas of its own, which a later answer can paint over. `onChange` gets what could not be read so far.
export function tileExchange(model, el, onChange) {
  const asked = new Map(); // by name: where the tile lies, and OpenSeadragon's context that waits for it
  const unfinished = new Map(); // by name: where the tile lies, and the canvas to paint over
  const view = crypto.getRandomValues(new Uint32Array(1))[0]; // several views of one model get the same answers
  let timer;
  let onPaint = () => {};

  const ask = (place) => model.send({ kind: "tile", view, ...place });

  function askAgain() {
    for (const { place } of unfinished.values()) ask(place);
  }

  async function receive(answer, [bytes]) {
    if (answer.kind !== "tile" || answer.view !== view) return;
    const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    const name = nameOf(answer);
    const job = asked.get(name);
    const before = unfinished.get(name);
    const canvas = job ? new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d", IN_MEMORY) : before?.canvas;
    if (!canvas) return; // nobody waits for it any more
    canvas.drawImage(bitmap, 0, 0);
    asked.delete(name);
    if (answer.final) unfinished.delete(name);
    else unfinished.set(name, { place: (job ?? before).place, canvas });
    clearTimeout(timer);
    if (unfinished.size) timer = setTimeout(askAgain, REFRESH);
    if (job) job.context.finish(canvas, null, "context2d");
    else onPaint();
    onChange(answer.problem);
  }

  function source({ number, width, height, tile }) {
    asked.clear();
    unfinished.clear();
    const longest = Math.max(width, height);
    const finest = Math.ceil(Math.log2(longest));
    return new OpenSeadragon.TileSource({
      width,
      height,
      tileSize: tile,
      tileOverlap: 0,
      maxLevel: finest,
      minLevel: Math.max(0, finest - Math.ceil(Math.log2(Math.max(1, longest / tile)))), // all of it in one tile
      getTileUrl: (level, x, y) => nameOf({ picture: number, level, x, y }),
      hasTransparency: () => false,
      downloadTileStart: (context) => {
        const { level, x, y } = context.tile;
        const place = { picture: number, level, x, y };
        asked.set(nameOf(place), { context, place });
        ask(place);
      },
      downloadTileAbort: (context) => asked.delete(context.src),
    });
  }

  listen(model, "msg:custom", receive, el);
  return {
    source,
    forget: (name) => unfinished.delete(name),
    isFinished: () => unfinished.size === 0,
    redrawWith: (redraw) => {
      onPaint = redraw;
    },
  };
}
