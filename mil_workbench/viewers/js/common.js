// What all viewers share: elements, controls, the sentence where there is nothing to show, numbers from Python, colours.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// The viewer's frame: controls above, the picture below, and in its place a sentence while the model's `message` is not empty.
// JupyterLab's own keys (arrows move between cells, c copies one) rest while the focus is inside.
export function frame(model, el, label) {
  const controls = element("div", { class: "mil-controls" });
  const body = element("div", { class: "mil-body" });
  const sentence = element("p", { class: "mil-message", role: "status" });
  const root = element("div", { class: "mil-viewer", role: "group", "aria-label": label }, controls, sentence, body);
  el.append(root);
  keepKeys(root, el);
  const tell = () => {
    sentence.textContent = model.get("message");
    sentence.hidden = !model.get("message");
    body.hidden = !sentence.hidden;
  };
  listen(model, "change:message", tell, el);
  tell();
  return { controls, body };
}

// JupyterLab takes arrow keys and letters for its cells before a slider sees them, unless the very element in focus says no;
// its shortcuts with Ctrl, such as saving, and Shift+Enter stay its own.
function keepKeys(root, el) {
  const keep = (event) => {
    const isShortcut = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
    if (root.contains(event.target)) event.target.toggleAttribute("data-lm-suppress-shortcuts", !isShortcut);
  };
  window.addEventListener("keydown", keep, true);
  (el.milEnds ??= []).push(() => window.removeEventListener("keydown", keep, true));
}

// `model.on` that ends when the view does: `render` returns what `ends(el)` gives.
export function listen(model, event, callback, el) {
  model.on(event, callback);
  (el.milEnds ??= []).push(() => model.off(event, callback));
}

export function ends(el) {
  return () => (el.milEnds ?? []).forEach((end) => end());
}

// A slider with its value beside it; `show` turns its position into text, `onInput` is given the position.
export function slider(label, { min, max, step, value, show = String }, onInput) {
  const output = element("output", {}, show(value));
  const input = element("input", { type: "range", min, max, step, value, "aria-label": label, "aria-valuetext": show(value) });
  const tell = () => {
    output.textContent = show(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    tell();
    onInput(Number(input.value));
  });
  const set = (position) => {
    input.value = position;
    tell();
  };
  return { root: element("label", { class: "mil-control" }, `${label} `, input, output), input, set };
}

// A list to choose from; `options` are [value, text] pairs.
export function choice(label, options, value, onChange) {
  const select = element("select", { "aria-label": label, onchange: () => onChange(select.value) });
  const offer = (pairs, chosen) => {
    select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, text)));
    select.value = chosen;
  };
  offer(options, value);
  return { root: element("label", { class: "mil-control" }, `${label} `, select), select, offer };
}

export const percent = (share) => `${Math.round(100 * share)} %`;

// A slider from 0 to 1 that is a trait of the model, so that the figure for papers looks like the page.
export function traitSlider(model, el, label, name, step, show) {
  const made = slider(label, { min: 0, max: 1, step, value: model.get(name), show }, (value) => model.set(name, value));
  made.input.addEventListener("change", () => model.save_changes()); // Python hears of it when the hand rests
  listen(model, `change:${name}`, () => made.set(model.get(name)), el);
  return made.root;
}

// A list to choose from that is a trait of the model.
export function traitChoice(model, el, label, name, options) {
  const made = choice(label, options, model.get(name), (value) => {
    model.set(name, value);
    model.save_changes();
  });
  listen(model, `change:${name}`, () => (made.select.value = model.get(name)), el);
  return made;
}

// How attention is painted: opacity, threshold and colours.
export function paintControls(model, el) {
  const maps = Object.keys(model.get("palettes")).map((name) => [name, name]);
  return [
    traitSlider(model, el, "opacity", "opacity", 0.05, percent),
    traitSlider(model, el, "threshold", "threshold", 0.01, (value) => `${percent(value)} of full colour`),
    traitChoice(model, el, "colours", "colour_map", maps).root,
  ];
}

export function button(text, label, onClick) {
  return element("button", { type: "button", "aria-label": label, title: label, onclick: onClick }, text);
}

// Which case is shown: a list and two buttons. Python answers to the model's `case`.
export function caseControls(model, el) {
  const pairs = () => model.get("cases").map((name) => [name, name]);
  const ask = (name) => {
    model.set("case", name);
    model.save_changes();
  };
  const step = (by) => {
    const names = model.get("cases");
    ask(names[(names.indexOf(model.get("case")) + by + names.length) % names.length]);
  };
  const cases = choice("case", pairs(), model.get("case"), ask);
  listen(model, "change:cases", () => cases.offer(pairs(), model.get("case")), el);
  listen(model, "change:case", () => (cases.select.value = model.get("case")), el);
  return element("span", { class: "mil-control" }, cases.root, button("‹", "previous case", () => step(-1)), button("›", "next case", () => step(1)));
}

// The bytes of a trait as numbers of the given type.
export function numbers(value, Type) {
  const length = value.byteLength / Type.BYTES_PER_ELEMENT;
  if (value.byteOffset % Type.BYTES_PER_ELEMENT === 0) return new Type(value.buffer, value.byteOffset, length);
  return new Type(value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength));
}

// The 256 colours of the chosen map, three bytes each.
export function palette(model, name) {
  return numbers(model.get("palettes")[name], Uint8Array);
}

// A canvas of so many page pixels, sharp on any screen; its context counts in page pixels.
export function surface(width, height, label) {
  const scale = window.devicePixelRatio || 1;
  const canvas = element("canvas", { width: Math.round(width * scale), height: Math.round(height * scale), role: "img", "aria-label": label, tabindex: 0 });
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d", { willReadFrequently: true }); // drawn by the processor: quick for small pictures, also where no graphics card is
  context.scale(scale, scale);
  return { canvas, context };
}

// The page's own colours, light or dark.
export function theme(el) {
  const style = getComputedStyle(el.querySelector(".mil-viewer") ?? el);
  const colour = (name) => style.getPropertyValue(`--mil-${name}`).trim();
  return { text: colour("text"), faint: colour("faint"), line: colour("line"), instance: colour("instance"), finding: colour("finding"), mark: colour("mark") };
}

// Calls `redraw` when the text's colour has become another one: the page has turned dark, or its theme has come after the viewer.
export function onThemeChange(el, redraw) {
  const root = el.querySelector(".mil-viewer");
  const hear = (event) => event.target === root && event.propertyName === "color" && redraw();
  root.addEventListener("transitionend", hear); // of a transition that takes no time to speak of, see viewer.css
  (el.milEnds ??= []).push(() => root.removeEventListener("transitionend", hear));
}

// A number as a person reads it: four significant digits.
export function written(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "not a number";
}
