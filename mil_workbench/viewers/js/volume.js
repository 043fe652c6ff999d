// A scan with its attention and lesion, drawn by NiiVue; its layers are widgets of their own, which the sliders here act on.
import { button, caseControls, element, ends, frame, listen, onThemeChange, paintControls, palette, surface, theme } from "./common.js";
import { BAR, drawBar } from "./stack_drawing.js";

const LEVELS = 255; // the largest weight in the layer of attention
const UNUSED = [0, 0, 0, 0, 0, 0, 0, 0]; // two entries before level 0, since NiiVue never takes the first two
const WIDE = 384; // page pixels of the colour bar
const LOOK = ["opacity", "threshold", "colour_map", "with_attention", "with_lesion", "largest"];

const modelOf = (model, reference) => model.widget_manager.get_model(reference.slice("IPY_MODEL_".length));

// Red, green, blue and opacity of each level: none below the threshold, and never of level 0.
function coloursOf(colours, threshold) {
  const levels = Array.from({ length: LEVELS + 1 }, (_, level) => [...colours.subarray(3 * level, 3 * level + 3), level < Math.max(threshold * LEVELS, 1) ? 0 : 255]);
  return { lut: [...UNUSED, ...levels.flat()], min: -UNUSED.length / 4, max: LEVELS };
}

// Whether a layer is shown, a trait of the model.
function layerControl(model, el, label, name) {
  const decide = () => {
    model.set(name, box.checked);
    model.save_changes();
  };
  const box = element("input", { type: "checkbox", checked: model.get(name), onchange: decide });
  listen(model, `change:${name}`, () => (box.checked = model.get(name)), el);
  return element("label", { class: "mil-control" }, box, label);
}

export default {
  async render({ model, el }) {
    const { controls, body } = frame(model, el, "scan, attention and lesion");
    const [opacity, threshold, colours] = paintControls(model, el);
    const looks = [layerControl(model, el, "attention", "with_attention"), opacity, threshold, colours, layerControl(model, el, "lesion", "with_lesion")];
    const largest = button("largest weight", "set the crosshair to the voxel with the largest weight", () => model.send({}));
    controls.append(caseControls(model, el), ...looks, largest);
    const heading = element("div", { class: "mil-heading" });
    const place = element("div", { class: "mil-volume" });
    const full = element("div", { class: "mil-full" });
    const bar = surface(WIDE, BAR.height, "");
    bar.canvas.removeAttribute("tabindex");
    const reading = element("div", { class: "mil-readout", role: "status" });
    const hint = "Click or drag to move the crosshair; the wheel goes through slices. With the pointer on the picture, h, l, j, k, ctrl+u and ctrl+d move it too, and v changes the view.";
    body.append(heading, place, element("div", { class: "mil-pane" }, bar.canvas, full), element("div", {}, reading, element("div", { class: "mil-full" }, hint)));

    let layers = [];
    function dress() {
      const [opacity, threshold, map, withAttention, withLesion, most] = LOOK.map((name) => model.get(name));
      const [, attention, lesion] = layers;
      attention?.set({ colormap_label: coloursOf(palette(model, map), threshold), opacity: withAttention ? opacity : 0 });
      lesion?.set("opacity", withLesion ? 1 : 0);
      looks.at(-1).hidden = !lesion;
      const colours = { ...theme(el), font: getComputedStyle(body).fontFamily };
      const look = { scaling: "case", threshold, map, colours: palette(model, map) };
      drawBar({ bar, full, wide: WIDE }, { largest: [most], critical: 0 }, { image: 0, look, colours });
    }

    async function take() {
      layers = await Promise.all(model.get("layers").map((reference) => modelOf(model, reference)));
      dress();
    }

    const tell = () => {
      heading.textContent = model.get("title");
      reading.textContent = model.get("reading");
    };
    for (const name of LOOK) listen(model, `change:${name}`, dress, el);
    for (const name of ["title", "reading"]) listen(model, `change:${name}`, tell, el);
    listen(model, "change:layers", take, el);
    onThemeChange(el, dress);
    tell();
    await take();
    const view = await model.widget_manager.create_view(await modelOf(model, model.get("niivue")));
    place.append(view.el);
    el.milEnds.push(() => view.remove());
    return ends(el);
  },
};
