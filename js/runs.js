// The runs of all studies as a table to sort and filter, and the curves of the chosen ones.
import { button, choice, cleanup, element, frame, listen, setTrait } from "./common.js";
import { curvesPanel } from "./curves.js";
import { columnsFor, readTable, rowFilter, sortedRows, textAt, widthOf } from "./runs_table.js";

const MOST_ROWS = 200; // in the page at a time
const AT_ONCE = 18; // rows filled in one go, more than are in view; the others follow frame by frame
const ACTIONS = 7.2; // em, for the checkbox and the button

const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// Each row is laid out by itself, which is much faster than a table's own layout; hence widths and roles of our own.
const cellAttributes = ({ name, kind, width }) => ({
  "data-name": name,
  "data-kind": kind,
  style: `width: ${width}em`,
});
const actionAttributes = { class: "mil-runs-actions", style: `width: ${ACTIONS}em` };

// What the line beside the filter says.
function describeCount(nShown, nDrawn, nAll) {
  const all = counted(nAll, "run");
  if (!nAll) return "";
  if (!nShown) return `none of ${all} matches`;
  if (nShown > nDrawn) return `${counted(nDrawn, "run")}, and ${(nShown - nDrawn).toLocaleString("en")} more: filter`;
  return nShown < nAll ? `${nShown.toLocaleString("en")} of ${all}` : all;
}

// A row of empty cells to be filled with one run after another.
function makeRow(columns, { choose, open }) {
  const check = element("input", { type: "checkbox" });
  const opener = element("button", { type: "button" }, "open");
  const cells = columns.map((column) => {
    const text = document.createTextNode("");
    const [tag, role] = column.name === "run" ? ["th", "rowheader"] : ["td", "cell"];
    return { text, cell: element(tag, { role, ...cellAttributes(column) }, text) };
  });
  const actions = element("td", { role: "cell", ...actionAttributes }, check, opener);
  const row = element("tr", { role: "row" }, actions, ...cells.map(({ cell }) => cell));
  const made = { row, check, opener, cells, key: "" };
  check.addEventListener("change", () => choose(made.key, check.checked));
  opener.addEventListener("click", () => open(made.key));
  return made;
}

function fillRow(made, data, columns, number) {
  const { row, check, opener, cells } = made;
  const key = data.keys[number];
  made.key = key;
  check.setAttribute("aria-label", `curves of ${key}`);
  opener.setAttribute("aria-label", `open ${key}`);
  const hasNoRun = key.endsWith("/"); // a study that cannot be read
  check.hidden = hasNoRun;
  opener.hidden = hasNoRun;
  row.dataset.state = textAt(data.columns.get("state"), number);
  columns.forEach((column, i) => {
    const text = textAt(column, number);
    const { text: node, cell } = cells[i];
    if (node.data === text) return;
    node.data = text;
    if (column.kind === "text") cell.title = text.length > 24 ? text : "";
  });
}

function render({ model, el }) {
  const { controls, body } = frame(model, el, "runs of all studies");
  const notice = element("p", { class: "mil-message", role: "alert" });
  const status = element("span", { class: "mil-readout", role: "status" });
  const table = element("table", { role: "table", "aria-label": "runs" });
  const region = { class: "mil-runs-scroll", tabindex: 0, role: "region", "aria-label": "table of runs" };
  const scroll = element("div", region, table);
  let data; // the table that Python sent
  let order; // all rows as they are sorted
  let columns; // those shown
  let rows; // the elements
  let nextFrame; // in which the next rows are filled
  let isSorting = false; // while the page changes the sorting itself

  const choose = (key, isChosen) => {
    const others = model.get("chosen").filter((other) => other !== key);
    setTrait(model, "chosen", isChosen ? [...others, key] : others);
  };
  const open = (key) => setTrait(model, "opened", key);

  const words = element("input", {
    type: "search",
    "aria-label": "filter: words that all must occur",
    placeholder: "finished musk1 abmil",
    size: 28,
  });
  words.addEventListener("input", () => {
    setTrait(model, "words", words.value);
    fill();
  });
  const study = choice("study", [], "", (value) => {
    setTrait(model, "study", value);
    layOut();
  });
  const state = choice("state", [], "", (value) => {
    setTrait(model, "state", value);
    fill();
  });
  const refresh = button("read again", "read the folder of runs again", () => {
    refresh.disabled = true;
    refresh.textContent = "reading …";
    model.send({ type: "refresh" });
  });
  controls.append(
    element("label", { class: "mil-control" }, "filter ", words),
    study.root,
    state.root,
    refresh,
    status,
  );

  function sortBy(column) {
    const isSame = model.get("sorted_by") === column.name;
    isSorting = true;
    model.set("descending", isSame ? !model.get("descending") : column.kind !== "text");
    setTrait(model, "sorted_by", column.name);
    isSorting = false;
    sort();
  }

  function header(column) {
    const arrow = element("span", { "aria-hidden": "true", class: "mil-runs-arrow" });
    const label = element("button", { type: "button", onclick: () => sortBy(column) }, column.title, arrow);
    return element("th", { role: "columnheader", ...cellAttributes(column) }, label);
  }

  // The table's frame: a header, and as many rows as are ever drawn, to be filled.
  function layOut() {
    const isOfStudy = rowFilter(data, { study: model.get("study"), state: "", words: "" });
    const numbers = data.keys.map((_, row) => row).filter(isOfStudy);
    const shown = columnsFor(data, model.get("study"), numbers);
    columns = shown.map((column) => ({ ...column, width: widthOf(column, numbers.slice(0, MOST_ROWS)) }));
    const length = Math.min(MOST_ROWS, numbers.length);
    rows = Array.from({ length }, () => makeRow(columns, { choose, open }));
    const first = element("th", { role: "columnheader", ...actionAttributes }, "curves");
    const head = element("tr", { role: "row" }, first, ...columns.map(header));
    table.style.width = `${columns.reduce((sum, { width }) => sum + width, ACTIONS)}em`;
    table.replaceChildren(
      element("thead", { role: "rowgroup" }, head),
      element("tbody", { role: "rowgroup" }, ...rows.map(({ row }) => row)),
    );
    sort();
  }

  function sort() {
    const [name, descending] = [model.get("sorted_by"), model.get("descending")];
    const column = data.columns.get(name) ?? data.columns.get("written");
    order = sortedRows(column, data.keys.length, descending);
    const direction = descending ? "descending" : "ascending";
    for (const cell of table.tHead.rows[0].cells) {
      if (cell.dataset.name) cell.setAttribute("aria-sort", cell.dataset.name === name ? direction : "none");
    }
    fill();
  }

  function fill() {
    const [studyChosen, stateChosen, wordsTyped] = ["study", "state", "words"].map((name) => model.get(name));
    const shown = order.filter(rowFilter(data, { study: studyChosen, state: stateChosen, words: wordsTyped }));
    cancelAnimationFrame(nextFrame);
    rows.forEach(({ row }, i) => {
      row.hidden = i >= shown.length;
    });
    fillFrom(0, shown);
    status.textContent = describeCount(shown.length, rows.length, data.keys.length);
  }

  function fillFrom(first, shown) {
    const end = Math.min(rows.length, shown.length);
    const last = Math.min(first + AT_ONCE, end);
    for (let i = first; i < last; i++) fillRow(rows[i], data, columns, shown[i]);
    markRows(rows.slice(first, last));
    if (last < end) nextFrame = requestAnimationFrame(() => fillFrom(last, shown));
  }

  // Which rows are chosen, and which one is open.
  function markRows(made) {
    const chosen = new Set(model.get("chosen"));
    for (const { row, check, key } of made) {
      check.checked = chosen.has(key);
      if (key === model.get("opened")) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  function showTable() {
    data = readTable(model.get("table"));
    const offer = (control, name, all) => {
      const levels = data.columns.get(name)?.levels ?? [];
      control.offer([["", all], ...levels.map((level) => [level, level])], model.get(name));
    };
    offer(study, "study", "all studies");
    offer(state, "state", "all states");
    words.value = model.get("words");
    refresh.disabled = false;
    refresh.textContent = "read again";
    layOut();
  }

  function showNotice() {
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
  }

  const curves = curvesPanel(model, el, (key) => choose(key, false));
  body.append(notice, scroll, curves);
  showTable();
  showNotice();
  listen(model, "change:readings", showTable, el);
  listen(model, "change:notice", showNotice, el);
  listen(model, "change:chosen change:opened", () => markRows(rows), el);
  const onSorting = () => {
    if (!isSorting) sort();
  };
  listen(model, "change:sorted_by change:descending", onSorting, el);
  const filters = [
    ["words", words, fill],
    ["state", state.select, fill],
    ["study", study.select, layOut],
  ];
  for (const [name, control, redraw] of filters) {
    const onChange = () => {
      if (control.value === model.get(name)) return; // the page changed it itself
      control.value = model.get(name);
      redraw();
    };
    listen(model, `change:${name}`, onChange, el);
  }
  return cleanup(el);
}

export default { render };
