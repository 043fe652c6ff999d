// The selector's controls: selection, k, scores, temperature and epoch. Each sets the model and follows it.
import { button, caseControls, choice, element, formatNumber, listen, setTrait, slider } from "./common.js";

const MODES = [
  ["soft", "soft (all share)"],
  ["hard", "hard (the highest)"],
  ["top_k", "top-k (the k highest)"],
];
const SCORES = [
  ["logit", "logit"],
  ["sigmoid", "sigmoid"],
];
const OWN_TEMPERATURE =
  "the temperature that this epoch was trained at; while it is set, it goes along from epoch to epoch";

// Call `onNumber` with the number typed into `input`, on Enter (where JupyterLab's page makes no change event) or on
// leaving it.
function onTyped(input, onNumber) {
  const read = () => onNumber(Number(input.value.replace(",", ".")));
  input.addEventListener("change", read);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") read();
  });
  return input;
}

// A logarithmic slider and a box to type into. `choose(temperature, isDone)` is called while the slider moves and, with
// `isDone`, once it rests.
function temperatureControl(choose) {
  const input = element("input", {
    type: "range",
    step: 0.01,
    "aria-label": "temperature",
    class: "mil-selector-long",
  });
  const box = element("input", {
    type: "text",
    inputmode: "decimal",
    class: "mil-selector-number",
    "aria-label": "temperature, as a number",
  });
  onTyped(box, (value) => choose(value, true));
  const position = () => Number((10 ** Number(input.value)).toPrecision(3));
  input.addEventListener("input", () => choose(position(), false));
  input.addEventListener("change", () => choose(position(), true));
  const show = (temperature, [low, high]) => {
    Object.assign(input, { min: Math.log10(low), max: Math.log10(high), value: Math.log10(temperature) });
    input.setAttribute("aria-valuetext", formatNumber(temperature));
    box.value = formatNumber(temperature);
  };
  const label = element("label", { class: "mil-control" }, "temperature ", input);
  return { root: element("span", { class: "mil-control mil-selector-wrap" }, label, box), show };
}

function kControl(onNumber) {
  const attributes = { type: "number", min: 1, step: 1, class: "mil-selector-number" };
  const input = element("input", { ...attributes, "aria-label": "k, how many share the weight" });
  onTyped(input, onNumber);
  return { root: element("label", { class: "mil-control" }, "k ", input), input };
}

export function selectorControls(model, el) {
  const get = (name) => model.get(name);
  const epochs = () => get("shown").epochs ?? [];
  const ownTemperature = (epoch) => get("shown").temperatures?.[epochs().indexOf(epoch)];
  const isOwn = () => get("temperature") === ownTemperature(get("epoch"));

  const temperature = temperatureControl((value, isDone) => {
    const [low, high] = get("shown").temperature_range;
    if (value > 0) {
      model.set("temperature", Math.min(high, Math.max(low, value)));
      if (isDone) model.save_changes();
    }
    showTemperature();
  });
  const mode = choice("selection", MODES, get("mode"), (value) => setTrait(model, "mode", value));
  const scores = choice("scores", SCORES, get("scores"), (value) => setTrait(model, "scores", value));
  const k = kControl((value) => {
    if (value >= 1) setTrait(model, "k", Math.round(value));
    show();
  });
  const format = (position) => (position in epochs() ? String(epochs()[position] + 1) : "");
  const epoch = slider("epoch", { min: 0, max: 0, step: 1, value: 0, format }, (position) => {
    const chosen = epochs()[position];
    if (isOwn()) model.set("temperature", ownTemperature(chosen)); // it was the epoch's own, and stays so
    setTrait(model, "epoch", chosen);
  });
  const own = button("the epoch's own", OWN_TEMPERATURE, () =>
    setTrait(model, "temperature", ownTemperature(get("epoch"))),
  );

  function showTemperature() {
    temperature.show(get("temperature"), get("shown").temperature_range);
    own.setAttribute("aria-pressed", isOwn());
  }

  function show() {
    mode.select.value = get("mode");
    scores.select.value = get("scores");
    k.input.value = get("k");
    k.root.hidden = get("mode") !== "top_k";
    epoch.input.max = epochs().length - 1;
    epoch.set(epochs().indexOf(get("epoch")));
    epoch.root.hidden = epochs().length < 2;
    showTemperature();
  }

  for (const name of ["mode", "scores", "k", "epoch", "shown"]) listen(model, `change:${name}`, show, el);
  listen(model, "change:temperature", showTemperature, el);
  show();
  return [caseControls(model, el), mode.root, k.root, scores.root, temperature.root, own, epoch.root];
}
