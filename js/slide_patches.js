// Single patches: those with the highest and the lowest weights, and the chosen one in full size.
import { element, formatNumber, listen } from "./common.js";
import { twoDigits } from "./slide_levels.js";

// Addresses of images made from bytes; `release` frees those made so far.
function imageAddresses() {
  let addresses = [];
  const make = (bytes, type) => {
    const address = URL.createObjectURL(new Blob([bytes], { type }));
    addresses.push(address);
    return address;
  };
  const release = () => {
    for (const address of addresses) URL.revokeObjectURL(address);
    addresses = [];
  };
  return { make, release };
}

export function patchesBeside(model, el, { weightInSection, openPatch }) {
  const root = element("div", { class: "mil-montage" });
  const addresses = imageAddresses();

  function patchButton({ patch, finding, image }) {
    const weight = weightInSection(patch);
    const shows = finding ? ", shows the finding" : "";
    const label = `patch ${patch + 1}, weight in its section ${formatNumber(weight)}${shows}`;
    const attributes = {
      type: "button",
      class: finding ? "mil-finding" : undefined,
      "aria-label": label,
      title: label,
    };
    const made = element("button", { ...attributes, onclick: () => openPatch(patch) });
    made.append(element("img", { src: addresses.make(image, "image/jpeg"), alt: "" }), twoDigits(weight));
    return made;
  }

  function row(name, entries) {
    const caption = element("span", { class: "mil-caption" }, `${name} weights`);
    const attributes = { role: "group", "aria-label": `patches with the ${name} weights` };
    return element("div", attributes, caption, ...entries.map(patchButton));
  }

  function show() {
    addresses.release();
    const entries = model.get("shown").beside ?? [];
    const rows = ["highest", "lowest"].map((name) => [name, entries.filter((entry) => entry.row === name)]);
    root.replaceChildren(...rows.filter(([, own]) => own.length).map(([name, own]) => row(name, own)));
  }

  listen(model, "change:shown", show, el);
  show();
  return root;
}

// One patch in full size, and what is known of it.
export function patchPanel(model, el, { weights, cellOf, weightInSection }) {
  const root = element("div", { class: "mil-patch", role: "status", "aria-label": "the chosen patch" });
  const addresses = imageAddresses();

  function clear() {
    addresses.release();
    const hint = "Choose a patch: click on the section, or press Enter for the one in its middle.";
    root.replaceChildren(element("p", { class: "mil-readout", hidden: !model.get("shown").number }, hint));
  }

  function factsOf(answer) {
    const stain = model.get("stains")[model.get("stain")];
    const cell = cellOf(answer.patch);
    const place = [cell ? `column ${cell.column + 1}, row ${cell.row + 1}` : "hidden by another"];
    if (answer.place.length) place.push(`x ${answer.place[0]}, y ${answer.place[1]}`);
    const unshown = { null: "not known", 0: "not shown" }[answer.label];
    return [
      ["patch", `${answer.patch + 1} of ${weights().length}`],
      ["stain", stain.name],
      ["section", stain.sections[model.get("section")].name],
      ["place", place.join("; ")],
      ["weight in its section", formatNumber(weightInSection(answer.patch))],
      ["weight in the case", formatNumber(weights()[answer.patch])],
      ["finding", unshown ?? `shown (${formatNumber(answer.label)})`],
    ].filter(([, value]) => value);
  }

  function show(answer, [bytes]) {
    if (answer.kind !== "patch" || answer.picture !== model.get("shown").number) return;
    addresses.release();
    const image = element("img", { src: addresses.make(bytes, "image/png"), alt: `patch ${answer.patch + 1}` });
    image.onload = () => {
      const zoom = Math.max(1, Math.round(224 / image.naturalWidth)); // whole, so that pixels stay squares of one size
      image.style.width = `${image.naturalWidth * zoom}px`;
    };
    const facts = factsOf(answer).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
    root.replaceChildren(image, element("dl", {}, ...facts), answer.problem);
  }

  listen(model, "msg:custom", show, el);
  listen(model, "change:shown", clear, el);
  clear();
  return { root, clear };
}
