/* What color has each point, and what does that color mean?
 *
 * A color mode gives every point a tint: 0 hidden, 1 plain, 2 and up a color of the mode's palette, 128 more if dimmed.
 * The ten colors of classes are told apart by every kind of color vision (tests/ui/test_scatter.py measures it); with
 * more classes they repeat, and the legend says so. It draws nothing.
 */

const CLASS_COLORS = {
  light: ["#5476ff", "#f38f3b", "#667b0a", "#b536a9", "#33b1e4", "#7a2806", "#ff4185", "#3900a3", "#4f2156", "#2f00fa"],
  dark: ["#6394ff", "#f3a756", "#4ef8ba", "#ff5ba6", "#f8eb41", "#8a51ad", "#c9b6ff", "#b27a46", "#b82961", "#6235ff"],
};
/* Two kinds and no order: right and wrong, training and test. */
const PAIR_COLORS = { light: ["#8a94a6", "#9a1f8f"], dark: ["#8792a6", "#ff7be0"] };
/* Little to much self-influence. */
const RAMP_COLORS = {
  light: ["#d9cfa8", "#c79a52", "#a55a4a", "#6d2a63", "#2b1147"],
  dark: ["#4a4560", "#7a4f86", "#b9597c", "#ef8a5b", "#ffe59a"],
};
const PLAIN = 1;
const FIRST_COLOR = 2;
const DIMMED = 128;
const RAMP_STEPS = 100;
/* Got worse to improved, of a lesson's test points; the middle one is plain. */
const LESSON_STEPS = 61;

const COLOR_NAMES = {
  influence: "influence", label: "label", prediction: "prediction", outcome: "right or wrong",
  "self-influence": "self-influence", split: "training or test",
};
/* Modes in which test points look as they do without colors. */
const TESTS_PLAIN = new Set(["influence", "self-influence"]);
const colorMode = (mode) => (mode in COLOR_NAMES ? mode : "influence");

/* The tint of every point by its byte of data, 256 of them; `wrong` marks are bits. */
function tintTable(mode) {
  const table = new Uint8Array(256).fill(PLAIN);
  if (mode === "label" || mode === "prediction") {
    for (let c = 0; c < NO_CLASS; c++) table[c] = FIRST_COLOR + (c % CLASS_COLORS.light.length);
  } else if (mode === "outcome") {
    for (let mark = 0; mark < 256; mark++) table[mark] = FIRST_COLOR + (mark & WRONG ? 1 : 0);
  } else if (mode === "self-influence") {
    for (let code = 0; code < NO_CODE; code++) table[code] = FIRST_COLOR + Math.floor((code / NO_CODE) * RAMP_STEPS);
  } else if (mode === "split") [table[0], table[1]] = [FIRST_COLOR, FIRST_COLOR + 1];
  return table;
}

/* Writes the tint of every point into `out`, in drawing order: the training rows of `order`, then the test rows. `row` is that
 * of a lesson: its training points are drawn by strong.js. */
function tintPoints(points, mode, shown, inside, out, row = null) {
  const { nTrain, total, order, classes, predictions, marks, codes } = points;
  const table = tintTable(mode);
  const bytes = { label: classes, prediction: predictions, outcome: marks, "self-influence": codes }[mode] ?? null;
  const other = mode === "split" ? 1 : NO_CLASS;
  const tests = mode === LESSON ? row.tests : null;
  const hasTest = bytes !== null && bytes.length === total;
  for (let n = 0; n < total; n++) {
    const i = n < nTrain ? order[n] : n;
    if (!shown[i]) {
      out[n] = 0;
      continue;
    }
    const byte = i < nTrain ? (bytes ? bytes[i] : mode === "split" ? 0 : NO_CLASS) : hasTest ? bytes[i] : other;
    const tint = tests && i >= nTrain ? FIRST_COLOR + Math.round(((tests[i - nTrain] + 127) / 254) * (LESSON_STEPS - 1)) : table[byte];
    out[n] = tint + (inside && !inside[i] ? DIMMED : 0);
  }
  return out;
}

/* 256 colors as RGBA bytes for the tints of a mode. */
function paletteOf(mode, theme, faint) {
  const palette = new Uint8Array(1024);
  const put = (tint, color, opaque) => {
    for (const [at, share] of [[tint, 1], [tint + DIMMED, 0.2]]) {
      palette.set([...color.map((part) => Math.round(part * 255)), Math.round(255 * opaque * share)], 4 * at);
    }
  };
  put(PLAIN, theme.muted, faint);
  hues(mode, theme).forEach((hue, n) => put(FIRST_COLOR + n, hue, Math.min(0.9, faint * 1.9)));
  return palette;
}

/* The colors of a mode in the order of their tints. */
function hues(mode, theme) {
  const of = (colors) => colors[theme.dark ? "dark" : "light"].map(rgb);
  if (mode === "label" || mode === "prediction") return of(CLASS_COLORS);
  if (mode === "outcome" || mode === "split") return of(PAIR_COLORS);
  if (mode === LESSON) {
    return Array.from({ length: LESSON_STEPS }, (_, n) => rampAt([theme.away, theme.muted, theme.towards], n / (LESSON_STEPS - 1)));
  }
  return mode === "self-influence" ? Array.from({ length: RAMP_STEPS }, (_, n) => rampAt(of(RAMP_COLORS), n / (RAMP_STEPS - 1))) : [];
}

function rampAt(stops, t) {
  const at = Math.min(stops.length - 2, Math.floor(t * (stops.length - 1)));
  return mix(stops[at], stops[at + 1], t * (stops.length - 1) - at);
}

/* What the legend says of a mode: { entries: [{ hue, text }], ramp: [hue], ends: [text], note }. */
function colorKey(data, points, mode, theme) {
  const of = (colors) => colors[theme.dark ? "dark" : "light"].map(rgb);
  if (mode === "outcome" || mode === "split") {
    const names = mode === "outcome" ? ["predicted rightly", "predicted wrongly"] : ["training", "test"];
    return { entries: names.map((text, n) => ({ hue: of(PAIR_COLORS)[n], text })), note: null };
  }
  if (mode === "self-influence") {
    if (!points.codes) return { entries: [], note: "Self-influence is not computed yet." };
    const [least, , middle, , most] = points.quantiles;
    return {
      entries: [], ramp: of(RAMP_COLORS), ends: [number(least), `${number(middle)} (median)`, number(most)],
      note: "by rank; test points have none",
    };
  }
  return classKey(data, points, mode, of(CLASS_COLORS));
}

/* One entry a color, with the names of all classes that have it. */
function classKey(data, points, mode, colors) {
  const used = new Uint8Array(256);
  for (const number_ of mode === "label" ? points.classes : points.predictions) used[number_] = 1;
  const names = colors.map(() => []);
  for (let c = 0; c < NO_CLASS; c++) if (used[c]) names[c % colors.length].push(className(data, c));
  const entries = colors.map((hue, n) => ({ hue, text: names[n].join(", ") })).filter((entry) => entry.text);
  const repeats = names.some((few) => few.length > 1);
  const note = !entries.length ? "This run has no classes." : repeats ? `${colors.length} colors, so classes share them: point at one for its name` : null;
  return { entries, note };
}

/* The key of a mode as [{ hue, text }], for a saved picture; `row` may be that of a lesson. */
function swatches(data, points, mode, theme, row = null) {
  if (mode === "influence") {
    const names = row?.tests ? ["improved", "got worse", "little change"] : ["towards", "away", "little influence"];
    return [theme.towards, theme.away, theme.muted].map((hue, n) => ({ text: names[n], hue }));
  }
  const { entries, ramp, ends } = colorKey(data, points, mode, theme);
  return ramp ? [{ hue: ramp[0], text: ends[0] }, { hue: ramp.at(-1), text: ends[2] }] : entries;
}
