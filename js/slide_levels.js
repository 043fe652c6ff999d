// The way down to a section: where one is, and bars of the stains and sections with their weights.
import { button, element, formatNumber, listen } from "./common.js";

const TRAITS = ["stains", "stain", "section", "case"];

export const twoDigits = (weight) => String(Number(weight.toPrecision(2)));

const heaviest = (groups) => groups.reduce((best, group, i) => (group.weight > groups[best].weight ? i : best), 0);

// Bars of stains or sections, with the open one marked.
function barGroup(label, groups, chosen, onClick) {
  const bars = groups.map(({ name, weight }, i) => {
    const title = `${name}, ${label.toLowerCase()}: ${formatNumber(weight)}`;
    const bar = button(`${name}: ${twoDigits(weight)}`, title, () => onClick(i));
    bar.classList.add("mil-bar");
    bar.style.setProperty("--mil-share", `${100 * weight}%`);
    bar.setAttribute("aria-pressed", i === chosen);
    return bar;
  });
  return element(
    "div",
    { role: "group", "aria-label": label },
    element("div", { class: "mil-caption" }, label),
    ...bars,
  );
}

// `openSection(stain, section)` asks Python for another section; `showWhole()` brings all of the open one into view.
export function levelsPanel(model, el, { openSection, showWhole }) {
  const crumbs = element("nav", { class: "mil-crumbs", "aria-label": "where you are" });
  const bars = element("div", { class: "mil-levels" });
  const root = element("div", {}, crumbs, bars);
  let drawn; // the traits that were drawn last

  function showCrumbs(stain, section, hasStains) {
    const steps = [[`case ${model.get("case")}`, () => openSection(hasStains ? -1 : 0, -1)]];
    if (stain?.name) steps.push([stain.name, () => openSection(model.get("stain"), -1)]);
    if (section) steps.push([section.name, showWhole]);
    const buttons = steps.map(([text, onClick]) => button(text, `up to ${text}`, onClick));
    crumbs.replaceChildren(...buttons.flatMap((made, i) => (i ? [" › ", made] : [made])));
  }

  function showBars(stains, stain, hasStains) {
    const groups = [];
    if (hasStains) {
      const onClick = (i) => openSection(i, heaviest(stains[i].sections));
      groups.push(barGroup("Weight of the stain in the case", stains, model.get("stain"), onClick));
    }
    if (stain) {
      const onClick = (i) => openSection(model.get("stain"), i);
      const label = `Weight of the section in ${stain.name || "the case"}`;
      groups.push(barGroup(label, stain.sections, model.get("section"), onClick));
    }
    bars.replaceChildren(...groups);
  }

  function show() {
    const state = JSON.stringify(TRAITS.map((name) => model.get(name)));
    if (state === drawn) return; // several of the traits change at once
    drawn = state;
    const focused = root.contains(document.activeElement) ? document.activeElement.ariaLabel : null;
    const stains = model.get("stains");
    const stain = stains[model.get("stain")];
    const hasStains = stains.length > 1 || Boolean(stains[0]?.name);
    showCrumbs(stain, stain?.sections[model.get("section")], hasStains);
    showBars(stains, stain, hasStains);
    if (!focused) return;
    const same = [...root.querySelectorAll("button")].find((made) => made.ariaLabel === focused);
    (same ?? root.querySelector("[aria-pressed]"))?.focus();
  }

  for (const name of TRAITS) listen(model, `change:${name}`, show, el);
  show();
  return root;
}
