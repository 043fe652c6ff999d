// The runs of all studies as a table to sort and filter, and the curves of the chosen ones.
import { button, choice, element, ends, frame, listen, numbers, written } from "./common.js";
import { curvesPanel } from "./curves.js";

const MOST_ROWS = 200; // in the page at a time
const AT_ONCE = 18; // rows filled in one go, more than are in view; the others follow frame by frame
const ACTS = 7.2; // em, for the checkbox and the button
const WIDEST = { run: 44, reason: 26 }; // letters; 20 for others

const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

function duration(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  return seconds < 100 * 60 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function moment(seconds) {
  const at = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

const WRITTEN = { score: (value) => value.toFixed(3), time: moment, duration, whole: String, number: written };

// The table that Python sent, with its columns as numbers and a way to write each of them.
function read(table) {
  const columns = new Map();
  for (const { values, ...column } of table.columns ?? []) {
    const write = column.kind === "text" ? (place) => column.levels[place] : WRITTEN[column.kind];
    columns.set(column.name, { ...column, values: numbers(values, Float64Array), write });
  }
  return { ...table, columns, parameters: new Set(table.differing?.[""]) };
}

const textAt = (column, row) => (Number.isNaN(column.values[row]) ? "" : column.write(column.values[row]));

// All rows in the order of a column, those without a value last, ties as Python sent them: the newest first.
function orderBy(column, n, descending) {
  const order = [];
  const missing = [];
  for (let row = 0; row < n; row++) (column && !Number.isNaN(column.values[row]) ? order : missing).push(row);
  const sign = descending ? -1 : 1;
  if (column) order.sort((a, b) => sign * (column.values[a] - column.values[b]) || a - b);
  return order.concat(missing);
}

// Which rows the study, the state and all words let through.
function filterOf({ columns, texts }, study, state, words) {
  const placeOf = (name, value) => (value ? columns.get(name).levels.indexOf(value) : null);
  const [studyPlace, statePlace] = [placeOf("study", study), placeOf("state", state)];
  const [studies, states] = [columns.get("study")?.values, columns.get("state")?.values];
  const asked = words.toLowerCase().split(/\s+/).filter(Boolean);
  return (row) =>
    (studyPlace === null || studies[row] === studyPlace) &&
    (statePlace === null || states[row] === statePlace) &&
    asked.every((word) => texts[row].includes(word));
}

// The columns for the chosen study: what any of its runs has, and of the parameters those that differ.
function columnsFor(data, study, rows) {
  const differing = new Set(data.differing?.[study]);
  const hasAny = ({ values }) => rows.some((row) => !Number.isNaN(values[row]));
  const isShown = (column) => {
    if (column.name === "study") return !study;
    if (column.kind === "text" && column.name === "reason") return rows.some((row) => textAt(column, row));
    return hasAny(column) && (differing.has(column.name) || !data.parameters.has(column.name));
  };
  return [...data.columns.values()].filter(isShown);
}

// Rows are laid out each by itself, which is much faster than a table's own layout; hence widths and roles of our own.
const cellAttributes = ({ name, kind, width }) => ({ "data-name": name, "data-kind": kind, style: `width: ${width}em` });

// How wide a column is, in em: its longest text, or the longest word of its title.
function widthOf(column, rows) {
  const texts = column.kind === "text" ? column.levels : rows.slice(0, MOST_ROWS).map((row) => textAt(column, row));
  const word = Math.max(...column.title.split(/[ _]/).map((part) => part.length)) + 2;
  const longest = texts.reduce((most, text) => Math.max(most, text.length), word);
  return Math.min(longest, WIDEST[column.name] ?? 20) * 0.62 + 1.8;
}

function render({ model, el }) {
  const { controls, body } = frame(model, el, "runs of all studies");
  const notice = element("p", { class: "mil-message", role: "alert" });
  const status = element("span", { class: "mil-readout", role: "status" });
  const table = element("table", { role: "table", "aria-label": "runs" });
  const scroll = element("div", { class: "mil-runs-scroll", tabindex: 0, role: "region", "aria-label": "table of runs" }, table);
  let data, order, rowElements, shownColumns;
  let later; // the filling that is still to come
  let isOwn = false; // a change of the sorting that the page makes itself

  const set = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const choose = (key, isChosen) => set("chosen", isChosen ? [...model.get("chosen"), key] : model.get("chosen").filter((other) => other !== key));

  const words = element("input", { type: "search", "aria-label": "filter: words that all must occur", placeholder: "finished musk1 abmil", size: 28 });
  words.addEventListener("input", () => {
    set("words", words.value);
    fill();
  });
  const study = choice("study", [], "", (value) => {
    set("study", value);
    layOut();
  });
  const state = choice("state", [], "", (value) => {
    set("state", value);
    fill();
  });
  const again = button("read again", "read the folder of runs again", () => {
    again.disabled = true;
    again.textContent = "reading …";
    model.send({ type: "refresh" });
  });
  controls.append(element("label", { class: "mil-control" }, "filter ", words), study.root, state.root, again, status);

  function sortBy(column) {
    const descending = model.get("sorted_by") === column.name ? !model.get("descending") : column.kind !== "text";
    isOwn = true;
    model.set("descending", descending);
    set("sorted_by", column.name);
    isOwn = false;
    sort();
  }

  function header(column) {
    const label = element("button", { type: "button", onclick: () => sortBy(column) }, column.title, element("span", { "aria-hidden": "true", class: "mil-runs-arrow" }));
    return element("th", { role: "columnheader", ...cellAttributes(column) }, label);
  }

  function makeRow() {
    const check = element("input", { type: "checkbox" });
    const open = element("button", { type: "button" }, "open");
    const cells = shownColumns.map((column) => {
      const text = document.createTextNode("");
      const isName = column.name === "run";
      return { text, cell: element(isName ? "th" : "td", { role: isName ? "rowheader" : "cell", ...cellAttributes(column) }, text) };
    });
    const acts = element("td", { role: "cell", class: "mil-runs-acts", style: `width: ${ACTS}em` }, check, open);
    const row = element("tr", { role: "row" }, acts, ...cells.map(({ cell }) => cell));
    const made = { row, check, open, cells, key: "" };
    check.addEventListener("change", () => choose(made.key, check.checked));
    open.addEventListener("click", () => {
      set("opened", made.key);
    });
    return made;
  }

  // The table's skeleton: a header and as many rows as are ever drawn, to be filled.
  function layOut() {
    const isOfStudy = filterOf(data, model.get("study"), "", "");
    const rows = data.keys.map((_, row) => row).filter(isOfStudy);
    shownColumns = columnsFor(data, model.get("study"), rows).map((column) => ({ ...column, width: widthOf(column, rows) }));
    rowElements = Array.from({ length: Math.min(MOST_ROWS, rows.length) }, makeRow);
    const head = element("tr", { role: "row" }, element("th", { role: "columnheader", class: "mil-runs-acts", style: `width: ${ACTS}em` }, "curves"), ...shownColumns.map(header));
    table.style.width = `${shownColumns.reduce((sum, { width }) => sum + width, ACTS)}em`;
    table.replaceChildren(element("thead", { role: "rowgroup" }, head), element("tbody", { role: "rowgroup" }, ...rowElements.map(({ row }) => row)));
    sort();
  }

  function sort() {
    order = orderBy(data.columns.get(model.get("sorted_by")) ?? data.columns.get("written"), data.keys.length, model.get("descending"));
    for (const cell of table.tHead.rows[0].cells) {
      const isKey = cell.dataset.name === model.get("sorted_by");
      if (cell.dataset.name) cell.setAttribute("aria-sort", !isKey ? "none" : model.get("descending") ? "descending" : "ascending");
    }
    fill();
  }

  function fillRow(made, number) {
    const { row, check, open, cells } = made;
    const key = (made.key = data.keys[number]);
    check.setAttribute("aria-label", `curves of ${key}`);
    open.setAttribute("aria-label", `open ${key}`);
    check.hidden = open.hidden = key.endsWith("/"); // a study that cannot be read has no run
    row.dataset.state = textAt(data.columns.get("state"), number);
    shownColumns.forEach((column, i) => {
      const text = textAt(column, number);
      const { text: node, cell } = cells[i];
      if (node.data === text) return;
      node.data = text;
      if (column.kind === "text") cell.title = text.length > 24 ? text : "";
    });
  }

  function fill() {
    const passes = filterOf(data, model.get("study"), model.get("state"), model.get("words"));
    const shown = order.filter(passes);
    cancelAnimationFrame(later);
    rowElements.forEach(({ row }, i) => (row.hidden = i >= shown.length));
    fillFrom(0, shown);
    const more = shown.length - rowElements.length;
    const all = counted(data.keys.length, "run");
    if (!shown.length) status.textContent = `none of ${all} matches`;
    else if (more > 0) status.textContent = `${counted(rowElements.length, "run")}, and ${more.toLocaleString("en")} more: filter`;
    else status.textContent = shown.length < data.keys.length ? `${shown.length.toLocaleString("en")} of ${all}` : all;
    if (!data.keys.length) status.textContent = "";
  }

  function fillFrom(first, shown) {
    const last = Math.min(first + AT_ONCE, rowElements.length, shown.length);
    for (let i = first; i < last; i++) fillRow(rowElements[i], shown[i]);
    mark(rowElements.slice(first, last));
    if (last < Math.min(rowElements.length, shown.length)) later = requestAnimationFrame(() => fillFrom(last, shown));
  }

  // Which rows are chosen, and which one is open.
  function mark(made) {
    const [chosen, opened] = [new Set(model.get("chosen")), model.get("opened")];
    for (const { row, check, key } of made) {
      check.checked = chosen.has(key);
      if (key === opened) row.setAttribute("aria-current", "true");
      else row.removeAttribute("aria-current");
    }
  }

  function takeOver() {
    data = read(model.get("table"));
    const offer = (control, name, all) => {
      const levels = data.columns.get(name)?.levels ?? [];
      control.offer([["", all], ...levels.map((level) => [level, level])], model.get(name));
    };
    offer(study, "study", "all studies");
    offer(state, "state", "all states");
    words.value = model.get("words");
    again.disabled = false;
    again.textContent = "read again";
    layOut();
  }

  function tell() {
    notice.textContent = model.get("notice");
    notice.hidden = !model.get("notice");
  }

  const curves = curvesPanel(model, el, (key) => choose(key, false));
  body.append(notice, scroll, curves);
  takeOver();
  tell();
  listen(model, "change:readings", takeOver, el);
  listen(model, "change:notice", tell, el);
  listen(model, "change:chosen change:opened", () => mark(rowElements), el);
  listen(model, "change:sorted_by change:descending", () => isOwn || sort(), el);
  for (const name of ["words", "state", "study"]) {
    const control = name === "words" ? words : (name === "state" ? state : study).select;
    listen(model, `change:${name}`, () => {
      if (control.value === model.get(name)) return; // the page's own doing
      control.value = model.get(name);
      name === "study" ? layOut() : fill();
    }, el);
  }
  return ends(el);
}

export default { render };
