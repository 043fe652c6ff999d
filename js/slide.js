// A section with its attention over it, and the way down to it: stains, sections, patches.
import {
  caseControls,
  cleanup,
  colourMapChoice,
  element,
  frame,
  listen,
  percent,
  traitCheckbox,
  traitChoice,
  traitSlider,
  typedArray,
} from "./common.js";
import { levelsPanel } from "./slide_levels.js";
import { patchesBeside, patchPanel } from "./slide_patches.js";
import { sectionStage } from "./slide_stage.js";

const SCALES = [
  ["section", "this section alone"],
  ["case", "the whole case"],
];

// Questions about the open section's patches.
function sectionQuestions(model) {
  const shown = () => model.get("shown");
  const weights = () => typedArray(shown().weights, Float32Array);
  const cells = () => typedArray(shown().cells, Int32Array);

  function weightInSection(patch) {
    const whole = weights().reduce((total, weight) => total + weight, 0);
    return whole > 0 ? weights()[patch] / whole : 0;
  }

  // The patch at a point of the picture, -1 for none.
  function patchAt(point) {
    const { rows, columns, side, origin } = shown();
    const column = Math.floor((point?.x - origin?.[0]) / side);
    const row = Math.floor((point?.y - origin?.[1]) / side);
    const isInside = column >= 0 && row >= 0 && column < columns && row < rows;
    return isInside ? cells()[row * columns + column] : -1;
  }

  function cellOf(patch) {
    const place = cells().indexOf(patch);
    const { columns } = shown();
    return place < 0 ? undefined : { column: place % columns, row: Math.floor(place / columns) };
  }

  return { weights, weightInSection, patchAt, cellOf };
}

function lookControls(model, el) {
  const ofLargest = (share) => `${percent(share)} of the largest`;
  return [
    colourMapChoice(model, el),
    traitChoice(model, el, { label: "scale", name: "scale", options: SCALES }).root,
    traitSlider(model, el, { label: "opacity", name: "opacity", step: 0.01, format: percent }),
    traitSlider(model, el, { label: "hide below", name: "threshold", step: 0.01, format: ofLargest }),
    traitCheckbox(model, el, { label: "outline findings", name: "outlines" }),
  ];
}

function render({ model, el }) {
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // keys pressed here are not JupyterLab's
  const { controls, body } = frame(model, el, "sections, their attention and their patches");
  controls.append(caseControls(model, el), ...lookControls(model, el));

  const questions = sectionQuestions(model);
  const openPatch = (patch) => {
    if (patch >= 0) model.send({ kind: "patch", picture: model.get("shown").number, patch });
  };
  const openSection = (stain, section) => model.send({ kind: "section", case: model.get("case"), stain, section });

  const stage = sectionStage(model, el, { ...questions, openPatch });
  const patch = patchPanel(model, el, questions);
  const heading = element("div", { class: "mil-heading" });
  const showTitle = () => {
    heading.textContent = model.get("title");
  };
  listen(model, "change:title", showTitle, el);
  showTitle();
  const showWhole = () => {
    stage.showWhole();
    patch.clear();
  };
  controls.after(levelsPanel(model, el, { openSection, showWhole }));
  body.append(heading, stage.root, patch.root, patchesBeside(model, el, { ...questions, openPatch }));
  return cleanup(el);
}

export default { render };
