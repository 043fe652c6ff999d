// A section with its attention over it, and the way down to it: stains, sections, patches.
import { button, caseControls, choice, element, ends, frame, listen, numbers, percent, slider, written } from "./common.js";
import { heatLayer, OpenSeadragon, tileExchange } from "./slide_layers.js";

const KEYS = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "+", "-", "=", "_", "0"];
const short = (weight) => String(Number(weight.toPrecision(2)));

// Where one is, and the bars that lead down.
function levels(model, el, { go, whole }) {
  const crumbs = element("nav", { class: "mil-crumbs", "aria-label": "where you are" });
  const bars = element("div", { class: "mil-levels" });
  let shown;
  const group = (label, entries, chosen, onClick) =>
    element("div", { role: "group", "aria-label": label }, element("div", { class: "mil-caption" }, label), ...entries.map((entry, i) => {
      const bar = button(`${entry.name}: ${short(entry.weight)}`, `${entry.name}, ${label.toLowerCase()}: ${written(entry.weight)}`, () => onClick(i));
      bar.classList.add("mil-bar");
      bar.style.setProperty("--mil-share", `${100 * entry.weight}%`);
      bar.setAttribute("aria-pressed", i === chosen);
      return bar;
    }));
  const heaviest = (entries) => entries.reduce((best, entry, i) => (entry.weight > entries[best].weight ? i : best), 0);
  const show = () => {
    const state = JSON.stringify(["stains", "stain", "section", "case"].map((name) => model.get(name)));
    if (state === shown) return; // several of them change at once
    shown = state;
    const focused = root.contains(document.activeElement) && document.activeElement.ariaLabel;
    const stains = model.get("stains"), stain = stains[model.get("stain")], section = stain?.sections[model.get("section")];
    const named = stains.length > 1 || stains[0]?.name;
    const steps = [[`case ${model.get("case")}`, () => go(named ? -1 : 0, -1)]];
    if (stain?.name) steps.push([stain.name, () => go(model.get("stain"), -1)]);
    if (section) steps.push([section.name, whole]);
    crumbs.replaceChildren(...steps.flatMap(([text, onClick], i) => [...(i ? [" › "] : []), button(text, `up to ${text}`, onClick)]));
    bars.replaceChildren(
      ...(named ? [group("Weight of the stain in the case", stains, model.get("stain"), (i) => go(i, heaviest(stains[i].sections)))] : []),
      ...(stain ? [group(`Weight of the section in ${stain.name || "the case"}`, stain.sections, model.get("section"), (i) => go(model.get("stain"), i))] : []),
    );
    if (focused) ([...root.querySelectorAll("button")].find((made) => made.ariaLabel === focused) ?? root.querySelector("[aria-pressed]"))?.focus();
  };
  const root = element("div", {}, crumbs, bars);
  for (const name of ["stains", "stain", "section", "case"]) listen(model, `change:${name}`, show, el);
  show();
  return root;
}

// Pictures from bytes; those of the section before are let go.
function pictures() {
  let urls = [];
  const url = (bytes, type) => (urls.push(URL.createObjectURL(new Blob([bytes], { type }))), urls.at(-1));
  return { url, drop: () => (urls.forEach((made) => URL.revokeObjectURL(made)), (urls = [])) };
}

// The patches with the highest and the lowest weights.
function montage(model, el, { inSection, open }) {
  const root = element("div", { class: "mil-montage" }), shown = pictures();
  const show = () => {
    shown.drop();
    const entries = model.get("montage");
    const row = (name) => {
      const own = entries.filter((entry) => entry.row === name);
      return own.length ? [element("div", { role: "group", "aria-label": `patches with the ${name} weights` }, element("span", { class: "mil-caption" }, `${name} weights`), ...own.map(({ patch, finding, image }) => {
        const label = `patch ${patch + 1}, weight in its section ${written(inSection(patch))}${finding ? ", shows the finding" : ""}`;
        const made = element("button", { type: "button", class: finding ? "mil-finding" : undefined, "aria-label": label, title: label, onclick: () => open(patch) });
        made.append(element("img", { src: shown.url(image, "image/jpeg"), alt: "" }), short(inSection(patch)));
        return made;
      }))] : [];
    };
    root.replaceChildren(...row("highest"), ...row("lowest"));
  };
  listen(model, "change:montage", show, el);
  show();
  return root;
}

// One patch in full size, and what is known of it.
function patchPanel(model, el, { cellOf, inSection }) {
  const root = element("div", { class: "mil-patch", role: "status", "aria-label": "the chosen patch" }), shown = pictures();
  const empty = () => (shown.drop(), root.replaceChildren(element("p", { class: "mil-readout", hidden: !model.get("picture").number }, "Choose a patch: click on the section, or press Enter for the one in its middle.")));
  const receive = (answer, [bytes]) => {
    if (answer.kind !== "patch" || answer.picture !== model.get("picture").number) return;
    shown.drop();
    const stain = model.get("stains")[model.get("stain")], cell = cellOf(answer.patch);
    const image = element("img", { src: shown.url(bytes, "image/png"), alt: `patch ${answer.patch + 1}` });
    image.onload = () => (image.style.width = `${image.naturalWidth * Math.max(1, Math.round(224 / image.naturalWidth))}px`);
    const finding = { null: "not known", 0: "not shown" }[answer.label] ?? `shown (${written(answer.label)})`;
    const facts = [
      ["patch", `${answer.patch + 1} of ${model.get("weights").byteLength / 4}`], ["stain", stain.name], ["section", stain.sections[model.get("section")].name],
      ["place", [...(cell ? [`column ${cell.column + 1}, row ${cell.row + 1}`] : ["hidden by another"]), ...(answer.place.length ? [`x ${answer.place[0]}, y ${answer.place[1]}`] : [])].join("; ")],
      ["weight in its section", written(inSection(answer.patch))], ["weight in the case", written(numbers(model.get("weights"), Float32Array)[answer.patch])], ["finding", finding],
    ];
    root.replaceChildren(image, element("dl", {}, ...facts.filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])), answer.problem);
  };
  listen(model, "msg:custom", receive, el);
  listen(model, "change:picture", empty, el);
  empty();
  return { root, empty };
}

// The section itself: OpenSeadragon, its buttons, and in words what is under the pointer or in the middle.
function stage(model, el, { patchAt, inSection, open }) {
  const slide = element("div", { class: "mil-slide", "aria-busy": "false" });
  const readout = element("div", { class: "mil-readout", role: "status" }), note = element("div", { class: "mil-note" }), legend = element("div", { class: "mil-legend" });
  const tiles = tileExchange(model, el, (problem) => (problem && (note.textContent = problem), tellBusy()));
  let viewer, heat;
  const tellBusy = () => slide.setAttribute("aria-busy", !(viewer.world.getItemAt(0)?.getFullyLoaded() && tiles.isFinished()));
  const place = (point) => viewer.world.getItemAt(0)?.viewportToImageCoordinates(point);
  const middle = () => patchAt(place(viewer.viewport.getCenter(true)));
  const tell = (where, patch) => (readout.textContent = patch < 0 ? `${where}: no patch` : `${where}: patch ${patch + 1}, weight in its section ${written(inSection(patch))}`);
  const show = () => {
    const picture = model.get("picture");
    note.textContent = picture.note ?? "";
    slide.dataset.empty = picture.number ? "" : "Choose a stain, then a section, above.";
    readout.textContent = "";
    if (picture.number) viewer.open(tiles.source(picture));
    else viewer.close();
    slide.setAttribute("aria-busy", Boolean(picture.number));
    heat.renew();
  };
  const begin = () => {
    viewer = OpenSeadragon({
      element: slide, drawer: "canvas", showNavigationControl: false, imageLoaderLimit: 6, maxTilesPerFrame: 10, maxImageCacheCount: 80, animationTime: 0.4, maxZoomPixelRatio: 4, visibilityRatio: 0.3,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    });
    viewer.canvas.setAttribute("role", "application");
    viewer.canvas.setAttribute("aria-label", "section: arrow keys move, plus and minus zoom, 0 shows all, Enter opens the patch in the middle");
    heat = heatLayer(model, el, viewer, legend);
    tiles.onPaint(() => viewer.forceRedraw());
    viewer.addHandler("tile-unloaded", ({ tile }) => tiles.forget(tile.getUrl()));
    viewer.world.addHandler("add-item", ({ item }) => item.addHandler("fully-loaded-change", tellBusy));
    viewer.addHandler("canvas-key", (event) => (event.preventDefaultAction = !KEYS.includes(event.originalEvent.key)));
    viewer.addHandler("canvas-click", ({ quick, position }) => quick && open(patchAt(place(viewer.viewport.pointFromPixel(position)))));
    viewer.addHandler("animation-finish", () => document.activeElement === viewer.canvas && place(viewer.viewport.getCenter()) && tell("in the middle", middle()));
    viewer.canvas.addEventListener("keydown", (event) => event.key === "Enter" && open(middle()));
    viewer.canvas.addEventListener("pointermove", (event) => {
      const box = viewer.canvas.getBoundingClientRect(), point = place(viewer.viewport.pointFromPixel(new OpenSeadragon.Point(event.clientX - box.x, event.clientY - box.y)));
      if (point) tell("under the pointer", patchAt(point));
    });
    listen(model, "change:picture", show, el);
    (el.milEnds ??= []).push(() => viewer.destroy());
    show();
  };
  const seen = new ResizeObserver(() => slide.clientWidth && (seen.disconnect(), begin())); // it measures itself, so it begins once it has a size
  seen.observe(slide);
  const zoom = (by) => (viewer.viewport.zoomBy(by), viewer.viewport.applyConstraints());
  const whole = () => viewer?.viewport.goHome();
  const full = () => viewer.viewport.zoomTo(viewer.world.getItemAt(0).imageToViewportZoom(1));
  const buttons = element("div", { class: "mil-control" }, button("+", "zoom in", () => zoom(1.5)), button("−", "zoom out", () => zoom(1 / 1.5)), button("whole section", "show the whole section", whole), button("full detail", "show the section pixel by pixel", full), legend);
  return { root: element("div", { class: "mil-stage" }, slide, buttons, readout, note), whole };
}

function render({ model, el }) {
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // keys pressed here are not JupyterLab's
  const { controls, body } = frame(model, el, "sections, their attention and their patches");
  const tell = (name, isFinal = true) => (value) => (model.set(name, value), isFinal && model.save_changes());
  const save = () => model.save_changes();
  const colours = choice("colours", Object.keys(model.get("palettes")).map((name) => [name, name]), model.get("colours"), tell("colours"));
  const scale = choice("scale", [["section", "this section alone"], ["case", "the whole case"]], model.get("scale"), tell("scale"));
  const opacity = slider("opacity", { min: 0, max: 1, step: 0.01, value: model.get("opacity"), show: percent }, tell("opacity", false));
  const threshold = slider("hide below", { min: 0, max: 1, step: 0.01, value: model.get("threshold"), show: (part) => `${percent(part)} of the largest` }, tell("threshold", false));
  for (const { input } of [opacity, threshold]) input.addEventListener("change", save);
  const outlines = element("input", { type: "checkbox", checked: model.get("outlines"), onchange: () => tell("outlines")(outlines.checked) });
  for (const [name, control] of [["opacity", opacity], ["threshold", threshold]]) listen(model, `change:${name}`, () => control.set(model.get(name)), el);
  controls.append(caseControls(model, el), colours.root, scale.root, opacity.root, threshold.root, element("label", { class: "mil-control" }, outlines, "outline findings"));

  const inSection = (patch) => {
    const weights = numbers(model.get("weights"), Float32Array), whole = weights.reduce((sum, weight) => sum + weight, 0);
    return whole > 0 ? weights[patch] / whole : 0;
  };
  const patchAt = (point) => {
    const { across, down, side, origin } = model.get("picture");
    const column = Math.floor((point?.x - origin?.[0]) / side), row = Math.floor((point?.y - origin?.[1]) / side);
    return column >= 0 && row >= 0 && column < across && row < down ? numbers(model.get("cells"), Int32Array)[row * across + column] : -1;
  };
  const cellOf = (patch) => {
    const place = numbers(model.get("cells"), Int32Array).indexOf(patch), { across } = model.get("picture");
    return place < 0 ? undefined : { column: place % across, row: Math.floor(place / across) };
  };
  const open = (patch) => patch >= 0 && model.send({ kind: "patch", picture: model.get("picture").number, patch });
  const go = (stain, section) => model.send({ kind: "go", case: model.get("case"), stain, section });
  const section = stage(model, el, { patchAt, inSection, open }), patch = patchPanel(model, el, { cellOf, inSection });
  const heading = element("div", { class: "mil-heading" });
  const entitle = () => (heading.textContent = model.get("title"));
  listen(model, "change:title", entitle, el);
  entitle();
  controls.after(levels(model, el, { go, whole: () => (section.whole(), patch.empty()) }));
  body.append(heading, section.root, patch.root, montage(model, el, { inSection, open }));
  return ends(el);
}

export default { render };
