/* Where are the points, and which one is nearest to the cursor?
 *
 * Reads the bytes of points/{layout}.bin and of influence/{target}/{query}.bin, and finds points through a grid of
 * cells. Point i is training row i below nTrain, test row i - nTrain above. It knows no screen and no network.
 */

const MEMORIZED = 1;

const PLANTED = 4;
const NO_CLASS = 255;

function expectBytes(buffer, expected, what) {
  if (buffer.byteLength === expected) return;
  throw new LoadError(`The server sent ${count(buffer.byteLength)} bytes for ${what} where ${count(expected)} were expected. `
    + "Reload the page; if it stays, compute the run again.", 0);
}

function decodePoints(buffer, nTrain, nTest) {
  const total = nTrain + nTest;
  expectBytes(buffer, 16 + 10 * total, "the map");
  const header = new Uint32Array(buffer, 0, 2);
  if (header[0] !== nTrain || header[1] !== nTest) {
    throw new LoadError(`The map has ${count(header[0])} training and ${count(header[1])} test points where the run has `
      + `${count(nTrain)} and ${count(nTest)}. Reload the page; if it stays, compute the run again.`, 0);
  }
  const at = new Float32Array(buffer, 16, 2 * total).slice();
  const points = {
    nTrain, nTest, total, at,
    classes: new Uint8Array(buffer, 16 + 8 * total, total),
    marks: new Uint8Array(buffer, 16 + 9 * total, total),
    ...center(at, total),
  };
  points.grid = buildGrid(points);
  return points;
}

/* Moves the points into map units (see camera.js), in place. A point without a place on this map goes far outside. */
function center(at, total) {
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < 2 * total; i += 2) {
    const x = at[i], y = at[i + 1];
    if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
    if (x < left) left = x;
    if (x > right) right = x;
    if (y < low) low = y;
    if (y > high) high = y;
  }
  const half = Math.max((right - left) / 2, (high - low) / 2) || 1;
  const midX = (left + right) / 2, midY = (low + high) / 2;
  let placed = 0;
  for (let i = 0; i < 2 * total; i += 2) {
    if (Number.isFinite(at[i]) && Number.isFinite(at[i + 1])) {
      at[i] = (at[i] - midX) / half;
      at[i + 1] = (at[i + 1] - midY) / half;
      placed += 1;
    } else at[i] = at[i + 1] = 1e6;
  }
  return { placed, halfX: (right - left) / 2 / half || 1, halfY: (high - low) / 2 / half || 1 };
}

/* A counting sort of the points into G x G cells: start[c]..start[c + 1] are the places in `order` of cell c. */
function buildGrid({ at, total, halfX, halfY }) {
  const G = Math.max(8, Math.min(1024, Math.ceil(Math.sqrt(total / 4))));
  const start = new Uint32Array(G * G + 1);
  const cellOf = new Uint32Array(total);
  const order = new Uint32Array(total);
  const clamp = (value) => Math.max(0, Math.min(G - 1, Math.floor(value)));
  for (let i = 0; i < total; i++) {
    const column = clamp(((at[2 * i] + halfX) / (2 * halfX)) * G);
    const line = clamp(((at[2 * i + 1] + halfY) / (2 * halfY)) * G);
    cellOf[i] = line * G + column;
    start[cellOf[i] + 1] += 1;
  }
  for (let c = 0; c < G * G; c++) start[c + 1] += start[c];
  const next = start.slice();
  for (let i = 0; i < total; i++) order[next[cellOf[i]]++] = i;
  return { G, start, order, clamp };
}

/* The point nearest to (u, v) within `radius` map units, among `from` <= i < to; -1 if there is none. */
function nearest({ at, grid, halfX, halfY, total }, u, v, radius, from = 0, to = total) {
  const { G, start, order, clamp } = grid;
  const column = (x) => clamp(((x + halfX) / (2 * halfX)) * G);
  const line = (y) => clamp(((y + halfY) / (2 * halfY)) * G);
  let best = -1, least = radius * radius;
  for (let row = line(v - radius); row <= line(v + radius); row++) {
    const first = start[row * G + column(u - radius)], last = start[row * G + column(u + radius) + 1];
    for (let place = first; place < last; place++) {
      const i = order[place];
      if (i < from || i >= to) continue;
      const dx = at[2 * i] - u, dy = at[2 * i + 1] - v, far = dx * dx + dy * dy;
      if (far <= least) {
        least = far;
        best = i;
      }
    }
  }
  return best;
}

/* How many points lie in the rectangle between two corners. */
function countWithin({ at, total }, [u0, v0], [u1, v1]) {
  let inside = 0;
  for (let i = 0; i < 2 * total; i += 2) {
    if (at[i] >= u0 && at[i] <= u1 && at[i + 1] >= v0 && at[i + 1] <= v1) inside += 1;
  }
  return inside;
}

function decodeInfluence(buffer, nTrain) {
  if (buffer.byteLength < 16) expectBytes(buffer, 16 + nTrain, "this prediction's influence");
  const [n, towards, away] = new Uint32Array(buffer, 0, 3);
  expectBytes(buffer, 16 + 4 * (towards + away) + nTrain, "this prediction's influence");
  if (n !== nTrain) {
    throw new LoadError(`The influence row has ${count(n)} training examples where the run has ${count(nTrain)}. `
      + "Reload the page; if it stays, compute the run again.", 0);
  }
  return {
    scale: new Float32Array(buffer, 12, 1)[0],
    towards: new Int32Array(buffer, 16, towards),
    away: new Int32Array(buffer, 16 + 4 * towards, away),
    values: new Int8Array(buffer, 16 + 4 * (towards + away), nTrain),
  };
}
