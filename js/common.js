// What all viewers share: page elements, controls, the message, numbers from Python, colours.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// What `render` returns: a function that undoes all that was registered with `onEnd` and `listen`.
export function cleanup(el) {
  return () => {
    for (const end of el.milEnds ?? []) end();
  };
}

// Call `end` when the view is removed.
export function onEnd(el, end) {
  el.milEnds ??= [];
  el.milEnds.push(end);
}

// `model.on`, until the view is removed.
export function listen(model, event, callback, el) {
  model.on(event, callback);
  onEnd(el, () => model.off(event, callback));
}

// Call `onResize` now and whenever the size of one of `elements` changes, until the view is removed.
export function observeSize(el, elements, onResize) {
  const observer = new ResizeObserver(onResize);
  for (const each of elements) observer.observe(each);
  onEnd(el, () => observer.disconnect());
}

// The viewer's frame: controls above and the picture below, or the model's `message` instead while that is not empty.
// JupyterLab's own keys (arrows move between cells, c copies one) rest while the focus is inside.
export function frame(model, el, label) {
  const controls = element("div", { class: "mil-controls" });
  const body = element("div", { class: "mil-body" });
  const message = element("p", { class: "mil-message", role: "status" });
  const root = element("div", { class: "mil-viewer", role: "group", "aria-label": label }, controls, message, body);
  el.append(root);
  keepKeys(root, el);
  const showMessage = () => {
    message.textContent = model.get("message");
    message.hidden = !model.get("message");
    body.hidden = !message.hidden;
  };
  listen(model, "change:message", showMessage, el);
  showMessage();
  return { controls, body };
}

// JupyterLab takes arrow keys and letters for its cells before a slider gets them, unless the focused element itself
// forbids it. Shortcuts with Ctrl, such as saving, and Shift+Enter stay JupyterLab's.
function keepKeys(root, el) {
  const keep = (event) => {
    const isShortcut = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === "Enter");
    if (root.contains(event.target)) event.target.toggleAttribute("data-lm-suppress-shortcuts", !isShortcut);
  };
  window.addEventListener("keydown", keep, true);
  onEnd(el, () => window.removeEventListener("keydown", keep, true));
}

// A slider with its value beside it. `format` turns its position into text; `onInput` is called with the position.
export function slider(label, { min, max, step, value, format = String }, onInput) {
  const output = element("output", {}, format(value));
  const attributes = { type: "range", min, max, step, value, "aria-label": label, "aria-valuetext": format(value) };
  const input = element("input", attributes);
  const showValue = () => {
    output.textContent = format(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    showValue();
    onInput(Number(input.value));
  });
  const set = (position) => {
    input.value = position;
    showValue();
  };
  return { root: element("label", { class: "mil-control" }, `${label} `, input, output), input, set };
}

// A list to choose from; `options` are [value, text] pairs.
export function choice(label, options, value, onChange) {
  const select = element("select", { "aria-label": label, onchange: () => onChange(select.value) });
  const offer = (pairs, chosen) => {
    select.replaceChildren(...pairs.map(([each, text]) => element("option", { value: each }, text)));
    select.value = chosen;
  };
  offer(options, value);
  return { root: element("label", { class: "mil-control" }, `${label} `, select), select, offer };
}

export const percent = (share) => `${Math.round(100 * share)} %`;

// Set a trait here and in Python.
export function setTrait(model, name, value) {
  model.set(name, value);
  model.save_changes();
}

// A slider from 0 to 1 for a trait of the model. Python is sent the value once the slider rests, for the figure.
export function traitSlider(model, el, { label, name, step, format }) {
  const onInput = (value) => model.set(name, value);
  const made = slider(label, { min: 0, max: 1, step, value: model.get(name), format }, onInput);
  made.input.addEventListener("change", () => model.save_changes());
  listen(model, `change:${name}`, () => made.set(model.get(name)), el);
  return made.root;
}

// A list to choose from for a trait of the model.
export function traitChoice(model, el, { label, name, options }) {
  const made = choice(label, options, model.get(name), (value) => setTrait(model, name, value));
  const showChosen = () => {
    made.select.value = model.get(name);
  };
  listen(model, `change:${name}`, showChosen, el);
  return made;
}

// A box to tick for a trait of the model.
export function traitCheckbox(model, el, { label, name }) {
  const box = element("input", { type: "checkbox", checked: model.get(name) });
  box.addEventListener("change", () => setTrait(model, name, box.checked));
  const showChosen = () => {
    box.checked = model.get(name);
  };
  listen(model, `change:${name}`, showChosen, el);
  return element("label", { class: "mil-control" }, box, label);
}

export function colourMapChoice(model, el) {
  const options = Object.keys(model.get("palettes")).map((name) => [name, name]);
  return traitChoice(model, el, { label: "colours", name: "colour_map", options }).root;
}

// How attention is painted: opacity, threshold and colours.
export function paintControls(model, el) {
  const ofFull = (value) => `${percent(value)} of full colour`;
  return [
    traitSlider(model, el, { label: "opacity", name: "opacity", step: 0.05, format: percent }),
    traitSlider(model, el, { label: "threshold", name: "threshold", step: 0.01, format: ofFull }),
    colourMapChoice(model, el),
  ];
}

export function button(text, label, onClick) {
  return element("button", { type: "button", "aria-label": label, title: label, onclick: onClick }, text);
}

// Which case is shown: a list and two buttons. Python reacts to the model's `case`.
export function caseControls(model, el) {
  const options = () => model.get("cases").map((name) => [name, name]);
  const open = (name) => setTrait(model, "case", name);
  const step = (by) => {
    const names = model.get("cases");
    open(names[(names.indexOf(model.get("case")) + by + names.length) % names.length]);
  };
  const cases = choice("case", options(), model.get("case"), open);
  const showChosen = () => {
    cases.select.value = model.get("case");
  };
  listen(model, "change:cases", () => cases.offer(options(), model.get("case")), el);
  listen(model, "change:case", showChosen, el);
  const previous = button("‹", "previous case", () => step(-1));
  const next = button("›", "next case", () => step(1));
  return element("span", { class: "mil-control" }, cases.root, previous, next);
}

// The bytes of a trait as numbers of the given type.
export function typedArray(bytes, Type) {
  const length = bytes.byteLength / Type.BYTES_PER_ELEMENT;
  if (bytes.byteOffset % Type.BYTES_PER_ELEMENT === 0) return new Type(bytes.buffer, bytes.byteOffset, length);
  return new Type(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

// The 256 colours of a colour map, three bytes each.
export function palette(model, name) {
  return typedArray(model.get("palettes")[name], Uint8Array);
}

// A canvas of so many page pixels, sharp on any screen; its context counts in page pixels.
export function makeCanvas(width, height, label) {
  const canvas = element("canvas", { role: "img", "aria-label": label, tabindex: 0 });
  // drawn by the processor: quick for small pictures, and without a graphics card too
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const made = { canvas, context };
  resizeCanvas(made, width, height);
  return made;
}

export function resizeCanvas({ canvas, context }, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  context.scale(scale, scale);
}

// The page's own colours, light or dark.
export function pageColours(el) {
  const style = getComputedStyle(el.querySelector(".mil-viewer") ?? el);
  const names = ["text", "faint", "line", "instance", "finding", "mark"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--mil-${name}`).trim()]));
}

// Call `redraw` when the text's colour changes: the page turns dark or light, or its theme arrives after the viewer.
export function onThemeChange(el, redraw) {
  const root = el.querySelector(".mil-viewer");
  const onTransition = (event) => {
    if (event.target === root && event.propertyName === "color") redraw();
  };
  root.addEventListener("transitionend", onTransition); // of a transition of 1 ms, see viewer.css
  onEnd(el, () => root.removeEventListener("transitionend", onTransition));
}

// A number as a person reads it: four significant digits.
export function formatNumber(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "not a number";
}
