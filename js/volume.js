// A scan with its attention and lesion, drawn by NiiVue. Its layers are widgets of their own, which the sliders act on.
import {
  button,
  caseControls,
  cleanup,
  element,
  frame,
  listen,
  makeCanvas,
  onEnd,
  onThemeChange,
  pageColours,
  paintControls,
  palette,
  traitCheckbox,
} from "./common.js";
import { BAR, drawBar } from "./stack_drawing.js";

const LEVELS = 255; // the largest weight in the layer of attention
const UNUSED = [0, 0, 0, 0, 0, 0, 0, 0]; // two entries before level 0, since NiiVue never uses the first two
const WIDE = 384; // page pixels of the colour bar
const LOOK = ["opacity", "threshold", "colour_map", "with_attention", "with_lesion", "largest"];
const HINT =
  "Click or drag to move the crosshair; the wheel goes through slices. " +
  "With the pointer on the picture, h, l, j, k, ctrl+u and ctrl+d move it too, and v changes the view.";

const modelOf = (model, reference) => model.widget_manager.get_model(reference.slice("IPY_MODEL_".length));

// Red, green, blue and opacity of each level: none below the threshold, and never of level 0.
function coloursOfLevels(colours, threshold) {
  const levels = Array.from({ length: LEVELS + 1 }, (_, level) => {
    const opacity = level < Math.max(threshold * LEVELS, 1) ? 0 : 255;
    return [...colours.subarray(3 * level, 3 * level + 3), opacity];
  });
  return { lut: [...UNUSED, ...levels.flat()], min: -UNUSED.length / 4, max: LEVELS };
}

export default {
  async render({ model, el }) {
    const { controls, body } = frame(model, el, "scan, attention and lesion");
    const attentionBox = traitCheckbox(model, el, { label: "attention", name: "with_attention" });
    const lesionBox = traitCheckbox(model, el, { label: "lesion", name: "with_lesion" });
    const toLargest = "set the crosshair to the voxel with the largest weight";
    const jump = button("largest weight", toLargest, () => model.send({}));
    controls.append(caseControls(model, el), attentionBox, ...paintControls(model, el), lesionBox, jump);
    const heading = element("div", { class: "mil-heading" });
    const picture = element("div", { class: "mil-volume" });
    const full = element("div", { class: "mil-full" });
    const bar = makeCanvas(WIDE, BAR.height, "");
    bar.canvas.removeAttribute("tabindex");
    const reading = element("div", { class: "mil-readout", role: "status" });
    const hint = element("div", { class: "mil-full" }, HINT);
    const scale = element("div", { class: "mil-pane" }, bar.canvas, full);
    body.append(heading, picture, scale, element("div", {}, reading, hint));

    let layers = [];
    function applyLook() {
      const [opacity, threshold, map, withAttention, withLesion, largest] = LOOK.map((name) => model.get(name));
      const [, attention, lesion] = layers;
      const colours = palette(model, map);
      attention?.set({ colormap_label: coloursOfLevels(colours, threshold), opacity: withAttention ? opacity : 0 });
      lesion?.set("opacity", withLesion ? 1 : 0);
      lesionBox.hidden = !lesion;
      const look = { scaling: "case", threshold, map, colours };
      const ofPage = { ...pageColours(el), font: getComputedStyle(body).fontFamily };
      drawBar({ bar, full, wide: WIDE }, { largest: [largest], critical: 0 }, { image: 0, look, colours: ofPage });
    }

    async function readLayers() {
      layers = await Promise.all(model.get("layers").map((reference) => modelOf(model, reference)));
      applyLook();
    }

    const showTexts = () => {
      heading.textContent = model.get("title");
      reading.textContent = model.get("reading");
    };
    for (const name of LOOK) listen(model, `change:${name}`, applyLook, el);
    for (const name of ["title", "reading"]) listen(model, `change:${name}`, showTexts, el);
    listen(model, "change:layers", readLayers, el);
    onThemeChange(el, applyLook);
    showTexts();
    await readLayers();
    const view = await model.widget_manager.create_view(await modelOf(model, model.get("niivue")));
    picture.append(view.el);
    onEnd(el, () => view.remove());
    return cleanup(el);
  },
};
