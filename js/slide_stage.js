// The section itself: OpenSeadragon, its buttons, and in words what is under the pointer or in the middle.
import { button, element, formatNumber, listen, onEnd } from "./common.js";
import { heatLayer } from "./slide_heat.js";
import { OpenSeadragon, tileExchange } from "./slide_tiles.js";

const KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "+", "-", "=", "_", "0"]; // of OpenSeadragon
const OPTIONS = {
  drawer: "canvas",
  showNavigationControl: false,
  imageLoaderLimit: 6,
  maxTilesPerFrame: 10,
  maxImageCacheCount: 80,
  animationTime: 0.4,
  maxZoomPixelRatio: 4,
  visibilityRatio: 0.3,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
};
const KEYS_IN_WORDS = "section: arrow keys move, plus and minus zoom, 0 shows all, Enter opens the patch in the middle";

export function sectionStage(model, el, { patchAt, weightInSection, openPatch }) {
  const slide = element("div", { class: "mil-slide", "aria-busy": "false" });
  const readout = element("div", { class: "mil-readout", role: "status" });
  const note = element("div", { class: "mil-note" });
  const legend = element("div", { class: "mil-legend" });
  let viewer;
  let heat;

  const tiles = tileExchange(model, el, (problem) => {
    if (problem) note.textContent = problem;
    showBusy();
  });

  function showBusy() {
    slide.setAttribute("aria-busy", !(viewer.world.getItemAt(0)?.getFullyLoaded() && tiles.isFinished()));
  }

  const toPicture = (point) => viewer.world.getItemAt(0)?.viewportToImageCoordinates(point);
  const middlePatch = () => patchAt(toPicture(viewer.viewport.getCenter(true)));

  function describe(where, patch) {
    const weight = patch < 0 ? "" : formatNumber(weightInSection(patch));
    const what = patch < 0 ? "no patch" : `patch ${patch + 1}, weight in its section ${weight}`;
    readout.textContent = `${where}: ${what}`;
  }

  function show() {
    const shown = model.get("shown");
    note.textContent = shown.note ?? "";
    slide.dataset.empty = shown.number ? "" : "Choose a stain, then a section, above.";
    readout.textContent = "";
    if (shown.number) viewer.open(tiles.source(shown));
    else viewer.close();
    slide.setAttribute("aria-busy", Boolean(shown.number));
    heat.renew();
  }

  function onPointerMove(event) {
    const box = viewer.canvas.getBoundingClientRect();
    const pixel = new OpenSeadragon.Point(event.clientX - box.x, event.clientY - box.y);
    const point = toPicture(viewer.viewport.pointFromPixel(pixel));
    if (point) describe("under the pointer", patchAt(point));
  }

  function handleEvents() {
    viewer.addHandler("tile-unloaded", ({ tile }) => tiles.forget(tile.getUrl()));
    viewer.world.addHandler("add-item", ({ item }) => item.addHandler("fully-loaded-change", showBusy));
    viewer.addHandler("canvas-key", (event) => {
      event.preventDefaultAction = !KEYS.includes(event.originalEvent.key);
    });
    viewer.addHandler("canvas-click", ({ quick, position }) => {
      if (quick) openPatch(patchAt(toPicture(viewer.viewport.pointFromPixel(position))));
    });
    viewer.addHandler("animation-finish", () => {
      const isFocused = document.activeElement === viewer.canvas;
      if (isFocused && toPicture(viewer.viewport.getCenter())) describe("in the middle", middlePatch());
    });
    viewer.canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter") openPatch(middlePatch());
    });
    viewer.canvas.addEventListener("pointermove", onPointerMove);
  }

  function begin() {
    viewer = OpenSeadragon({ element: slide, ...OPTIONS });
    viewer.canvas.setAttribute("role", "application");
    viewer.canvas.setAttribute("aria-label", KEYS_IN_WORDS);
    heat = heatLayer(model, el, viewer, legend);
    tiles.redrawWith(() => viewer.forceRedraw());
    handleEvents();
    listen(model, "change:shown", show, el);
    onEnd(el, () => viewer.destroy());
    show();
  }

  // OpenSeadragon measures its element, so it begins once that has a size
  const firstSize = new ResizeObserver(() => {
    if (!slide.clientWidth) return;
    firstSize.disconnect();
    begin();
  });
  firstSize.observe(slide);

  function zoom(factor) {
    viewer.viewport.zoomBy(factor);
    viewer.viewport.applyConstraints();
  }
  const showWhole = () => viewer?.viewport.goHome();
  const showPixels = () => viewer.viewport.zoomTo(viewer.world.getItemAt(0).imageToViewportZoom(1));
  const buttons = element(
    "div",
    { class: "mil-control" },
    button("+", "zoom in", () => zoom(1.5)),
    button("−", "zoom out", () => zoom(1 / 1.5)),
    button("whole section", "show the whole section", showWhole),
    button("full detail", "show the section pixel by pixel", showPixels),
    legend,
  );
  return { root: element("div", { class: "mil-stage" }, slide, buttons, readout, note), showWhole };
}
