// The table of runs as numbers: how values are written, which rows and columns are shown, and in which order.
import { formatNumber, typedArray } from "./common.js";

const WIDEST = { run: 44, reason: 26 }; // letters; 20 for others

function formatDuration(seconds) {
  if (seconds < 100) return `${Math.round(seconds)} s`;
  return seconds < 100 * 60 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function formatTime(seconds) {
  const at = new Date(seconds * 1000);
  const two = (number) => String(number).padStart(2, "0");
  const date = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${date} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

const FORMATS = {
  score: (value) => value.toFixed(3),
  time: formatTime,
  duration: formatDuration,
  whole: String,
  number: formatNumber,
};

// The table that Python sent; each column has its values as numbers and a way to write them.
export function readTable(table) {
  const columns = new Map();
  for (const { values, ...column } of table.columns ?? []) {
    const format = column.kind === "text" ? (place) => column.levels[place] : FORMATS[column.kind];
    columns.set(column.name, { ...column, values: typedArray(values, Float64Array), format });
  }
  return { ...table, columns, parameters: new Set(table.differing?.[""]) };
}

export const textAt = (column, row) => (Number.isNaN(column.values[row]) ? "" : column.format(column.values[row]));

// All rows in the order of a column, those without a value last, ties as Python sent them: the newest first.
export function sortedRows(column, n, descending) {
  const all = Array.from({ length: n }, (_, row) => row);
  if (!column) return all;
  const sign = descending ? -1 : 1;
  const { values } = column;
  const known = all.filter((row) => !Number.isNaN(values[row]));
  const missing = all.filter((row) => Number.isNaN(values[row]));
  known.sort((a, b) => sign * (values[a] - values[b]) || a - b);
  return known.concat(missing);
}

// A function that says whether the study, the state and all words let a row through; "" lets all through.
export function rowFilter({ columns, texts }, { study, state, words }) {
  const isLevel = (name, level) => {
    if (!level) return () => true;
    const { values, levels } = columns.get(name);
    const place = levels.indexOf(level);
    return (row) => values[row] === place;
  };
  const isOfStudy = isLevel("study", study);
  const isInState = isLevel("state", state);
  const asked = words.toLowerCase().split(/\s+/).filter(Boolean);
  return (row) => isOfStudy(row) && isInState(row) && asked.every((word) => texts[row].includes(word));
}

// The columns for the chosen study: what any of its runs has, and of the parameters those that differ.
export function columnsFor(data, study, rows) {
  const differing = new Set(data.differing?.[study]);
  const hasValue = ({ values }) => rows.some((row) => !Number.isNaN(values[row]));
  const isShown = (column) => {
    if (column.name === "study") return !study;
    if (column.kind === "text" && column.name === "reason") return rows.some((row) => textAt(column, row));
    return hasValue(column) && (differing.has(column.name) || !data.parameters.has(column.name));
  };
  return [...data.columns.values()].filter(isShown);
}

// How wide a column is, in em: its longest text, or the longest word of its title.
export function widthOf(column, rows) {
  const texts = column.kind === "text" ? column.levels : rows.map((row) => textAt(column, row));
  const longestWord = Math.max(...column.title.split(/[ _]/).map((part) => part.length)) + 2;
  const longest = texts.reduce((most, text) => Math.max(most, text.length), longestWord);
  return Math.min(longest, WIDEST[column.name] ?? 20) * 0.62 + 1.8;
}
