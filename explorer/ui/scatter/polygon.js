/* Which points lie inside what was drawn by hand, and how is a drawing made small enough for an address?
 *
 * Corners are [u, v] in map units, at most 64, rounded to 6 decimals. Inside is the even-odd rule as explorer/shown/selection.py
 * states it, in the same steps. It knows no screen.
 */

const MOST_CORNERS = 64;
const DIGITS = 1e6;
const BANDS = 512;

/* What was drawn, with as few corners as keep it within `tolerance` map units (more if 64 do not); null if it has no area. */
function simplified(drawn, tolerance) {
  let corners = drawn;
  for (let within = tolerance; corners === drawn || corners.length > MOST_CORNERS; within *= 1.5) {
    corners = thinned(drawn, within);
  }
  const rounded = corners.map((corner) => corner.map((value) => Math.round(value * DIGITS) / DIGITS + 0));
  const apart = rounded.filter(([u, v], i) => {
    const [before, beforeV] = rounded[(i || rounded.length) - 1];
    return u !== before || v !== beforeV;
  });
  return apart.length >= 3 && area(apart) > 0 ? apart : null;
}

/* Douglas and Peucker on the closed line: cut at the corner farthest from the first, then each half by itself. */
function thinned(drawn, tolerance) {
  const far = (corner) => Math.hypot(corner[0] - drawn[0][0], corner[1] - drawn[0][1]);
  const cut = drawn.reduce((best, corner, i) => (far(corner) > far(drawn[best]) ? i : best), 0);
  const closed = [...drawn, drawn[0]];
  const kept = new Uint8Array(closed.length);
  kept[0] = kept[cut] = kept[closed.length - 1] = 1;
  const open = [[0, cut], [cut, closed.length - 1]];
  while (open.length) {
    const [from, to] = open.pop();
    let worst = tolerance, at = -1;
    for (let i = from + 1; i < to; i++) {
      const off = distance(closed[i], closed[from], closed[to]);
      if (off > worst) [worst, at] = [off, i];
    }
    if (at < 0) continue;
    kept[at] = 1;
    open.push([from, at], [at, to]);
  }
  return drawn.filter((_, i) => kept[i]);
}

/* From a corner to the stretch between two others. */
function distance([u, v], [u0, v0], [u1, v1]) {
  const long = (u1 - u0) ** 2 + (v1 - v0) ** 2;
  const t = long ? Math.min(1, Math.max(0, ((u - u0) * (u1 - u0) + (v - v0) * (v1 - v0)) / long)) : 0;
  return Math.hypot(u - u0 - t * (u1 - u0), v - v0 - t * (v1 - v0));
}

/* The larger of its sides, as far as a polygon has any. */
function area(corners) {
  const across = (k) => Math.max(...corners.map((one) => one[k])) - Math.min(...corners.map((one) => one[k]));
  return across(0) * across(1);
}

/* Writes 1 into `out` for every point inside, 0 for the others. A point meets only the edges of its own band of v. */
function insideMask({ at, total }, polygon, out) {
  const us = polygon.map((corner) => corner[0]), vs = polygon.map((corner) => corner[1]);
  const [left, right] = [Math.min(...us), Math.max(...us)], [low, high] = [Math.min(...vs), Math.max(...vs)];
  const bandOf = (v) => Math.min(BANDS - 1, Math.max(0, Math.floor(((v - low) / (high - low)) * BANDS)));
  const bands = Array.from({ length: BANDS }, () => []);
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const ends = [bandOf(vs[i]), bandOf(vs[j])];
    for (let band = Math.min(...ends); band <= Math.max(...ends); band++) bands[band].push(i, j);
  }
  for (let point = 0; point < total; point++) {
    const u = at[2 * point], v = at[2 * point + 1];
    let odd = 0;
    if (u >= left && u <= right && v >= low && v <= high) {
      const band = bands[bandOf(v)];
      for (let k = 0; k < band.length; k += 2) {
        const i = band[k], j = band[k + 1];
        if (vs[i] > v !== vs[j] > v && u < ((us[j] - us[i]) * (v - vs[i])) / (vs[j] - vs[i]) + us[i]) odd ^= 1;
      }
    }
    out[point] = odd;
  }
  return out;
}
