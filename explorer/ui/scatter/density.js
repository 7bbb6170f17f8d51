/* Where are the points crowded?
 *
 * A coarse count of the shown points in cells of the map, smoothed, on a log scale: what the soft steps beneath the points
 * are drawn from. Counted once per layout and filter, in turns with the page, never in the way of a click.
 */

const DENSITY_ABOVE = 20_000;
const DENSITY_STEPS = 8;
const CELLS_ACROSS = 160;
/* Room around the points, so that the steps do not end at the edge. */
const MARGIN = 0.08;
const SMOOTHING = 2;

/* { cells: bytes 0..255, across, down, box: [left, low, right, high] in map units }; null if `superseded()` meanwhile. */
async function densityOf(points, shown, superseded) {
  const { at, total, halfX, halfY } = points;
  const box = [-halfX - MARGIN, -halfY - MARGIN, halfX + MARGIN, halfY + MARGIN];
  const cell = (2 * Math.max(halfX, halfY) + 2 * MARGIN) / CELLS_ACROSS;
  const across = Math.ceil((box[2] - box[0]) / cell), down = Math.ceil((box[3] - box[1]) / cell);
  const perU = across / (box[2] - box[0]), perV = down / (box[3] - box[1]);
  let counts = new Float32Array(across * down);
  let stop = false;
  await inParts(total, PART, (from, to) => {
    stop ||= superseded();
    for (let i = from; i < to && !stop; i++) {
      const column = Math.floor((at[2 * i] - box[0]) * perU), line = Math.floor((at[2 * i + 1] - box[1]) * perV);
      if (shown[i] && column < across && line < down) counts[line * across + column] += 1;
    }
  });
  if (stop) return null;
  for (let round = 0; round < 3; round++) counts = blurred(blurred(counts, across, down, 1, across), down, across, across, 1);
  const most = counts.reduce((best, value) => Math.max(best, value), 0);
  const cells = Uint8Array.from(counts, (value) => (most ? Math.round((Math.log1p(value) / Math.log1p(most)) * 255) : 0));
  return { cells, across, down, box };
}

/* Means over a window along one direction: `lines` lines of `length` cells, `step` apart, lines `stride` apart. */
function blurred(from, length, lines, step, stride) {
  const to = new Float32Array(from.length);
  for (let line = 0; line < lines; line++) {
    let sum = 0;
    const value = (k) => (k >= 0 && k < length ? from[line * stride + k * step] : 0);
    for (let k = -SMOOTHING; k < SMOOTHING; k++) sum += value(k);
    for (let k = 0; k < length; k++) {
      sum += value(k + SMOOTHING);
      to[line * stride + k * step] = Math.max(0, sum / (2 * SMOOTHING + 1));
      sum -= value(k - SMOOTHING);
    }
  }
  return to;
}
