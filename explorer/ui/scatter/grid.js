/* Which point is nearest to the cursor, and how many are in view?
 *
 * Finds the nearest through a grid of cells, without a look at all the others. `shown` is a mask of points
 * (see shown.js): what is not shown is not found and not counted.
 */

/* A counting sort of the points into G x G cells: start[c]..start[c + 1] are the places in `order` of cell c. */
async function buildGrid({ at, total, halfX, halfY }) {
  const G = Math.max(8, Math.min(1024, Math.ceil(Math.sqrt(total / 4))));
  const start = new Uint32Array(G * G + 1);
  const cellOf = new Uint32Array(total);
  const order = new Uint32Array(total);
  const clamp = (value) => Math.max(0, Math.min(G - 1, Math.floor(value)));
  await inParts(total, PART, (from, to) => {
    for (let i = from; i < to; i++) {
      const column = clamp(((at[2 * i] + halfX) / (2 * halfX)) * G);
      const line = clamp(((at[2 * i + 1] + halfY) / (2 * halfY)) * G);
      cellOf[i] = line * G + column;
      start[cellOf[i] + 1] += 1;
    }
  });
  for (let c = 0; c < G * G; c++) start[c + 1] += start[c];
  const next = start.slice();
  await inParts(total, PART, (from, to) => {
    for (let i = from; i < to; i++) order[next[cellOf[i]]++] = i;
  });
  return { G, start, order, clamp };
}

/* The point nearest to (u, v) within `radius` map units, among the shown `from` <= i < to; -1 if there is none. */
function nearest({ at, grid, halfX, halfY, total }, shown, u, v, radius, from = 0, to = total) {
  const { G, start, order, clamp } = grid;
  const column = (x) => clamp(((x + halfX) / (2 * halfX)) * G);
  const line = (y) => clamp(((y + halfY) / (2 * halfY)) * G);
  let best = -1, least = radius * radius;
  for (let row = line(v - radius); row <= line(v + radius); row++) {
    const first = start[row * G + column(u - radius)], last = start[row * G + column(u + radius) + 1];
    for (let place = first; place < last; place++) {
      const i = order[place];
      if (i < from || i >= to || !shown[i]) continue;
      const dx = at[2 * i] - u, dy = at[2 * i + 1] - v, far = dx * dx + dy * dy;
      if (far <= least) {
        least = far;
        best = i;
      }
    }
  }
  return best;
}

/* How many shown points lie in the rectangle between two corners. One look at each in order is faster than the grid. */
function countWithin({ at, total }, shown, [u0, v0], [u1, v1]) {
  let inside = 0;
  for (let i = 0; i < total; i++) {
    const u = at[2 * i], v = at[2 * i + 1];
    inside += shown[i] & (u >= u0) & (u <= u1) & (v >= v0) & (v <= v1);
  }
  return inside;
}
