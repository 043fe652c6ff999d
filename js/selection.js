// What the selector makes of one bag's scores, as `selection_weights` in viewers/selection.py, and how decided it is, as
// `sharpness` in evaluation/sharpness.py.

// Scores in single precision, as in the model: sigmoids of high logits round to 1 and tie.
export function scoresOf(logits, kind) {
  return kind === "sigmoid" ? logits.map((logit) => 1 / (1 + Math.exp(-logit))) : logits;
}

// Rows from the highest score to the lowest; of scores that tie, the first comes first.
export function rankRows(scores) {
  return Uint32Array.from(scores.keys()).sort((a, b) => scores[b] - scores[a] || a - b);
}

// Weights (N,) that sum to 1; `order` is `rankRows(scores)`.
export function selectionWeights(scores, order, { mode, k, temperature }) {
  const weights = new Float64Array(scores.length);
  const chosen = order.subarray(0, { soft: scores.length, hard: 1, top_k: k }[mode]);
  const highest = scores[order[0]]; // subtracted, so that no exponential overflows
  let total = 0;
  for (const row of chosen) {
    weights[row] = Math.exp((scores[row] - highest) / temperature);
    total += weights[row];
  }
  for (const row of chosen) weights[row] /= total;
  return weights;
}

// Effective number of instances (1 / sum of squares) and entropy / log N.
export function sharpness(weights) {
  let squares = 0;
  let entropy = 0;
  for (const weight of weights) {
    squares += weight * weight;
    if (weight > 0) entropy -= weight * Math.log(weight);
  }
  return { effective: 1 / squares, entropy: entropy / Math.log(Math.max(weights.length, 2)) };
}

// The value at `temperature` of a curve whose points lie at equal steps of log temperature from `low` to `high`.
export function valueOnCurve(curve, [low, high], temperature) {
  const place = (Math.log(temperature / low) / Math.log(high / low)) * (curve.length - 1);
  const before = Math.min(Math.floor(place), curve.length - 2);
  return curve[before] + (curve[before + 1] - curve[before]) * (place - before);
}
