/* Where are the points, and what is known of each?
 *
 * Reads the bytes of points/{layout}.bin, influence/{target}/{query}.bin and influence/lesson/{row}.bin (explorer/ui/wire.py says
 * what they hold).
 * Point i is training row i below nTrain, test row i - nTrain above. It knows no screen and no network.
 */

const SUSPECT = 1;

const PLANTED = 4;
/* Memorized, as models trained without it showed. */
const RETRAINED = 8;
const NO_CLASS = 255;
/* A code of self-influence where there is none. */
const NO_CODE = 255;
const PART = 100_000;

function expectBytes(buffer, expected, what) {
  if (buffer.byteLength === expected) return;
  throw new LoadError(`The server sent ${count(buffer.byteLength)} bytes for ${what} where ${count(expected)} were expected. `
    + "Reload the page; if it stays, compute the run again.", 0);
}

/* Takes turns with the page: a million points are not read in one go. */
async function decodePoints(buffer, nTrain, nTest) {
  const total = nTrain + nTest;
  const steps = buffer.byteLength >= 16 ? new Uint32Array(buffer, 8, 1)[0] : 0;
  const start = 16 + 4 * steps;
  expectBytes(buffer, start + 11 * total + (steps ? nTrain : 0), "the map");
  const header = new Uint32Array(buffer, 0, 2);
  if (header[0] !== nTrain || header[1] !== nTest) {
    throw new LoadError(`The map has ${count(header[0])} training and ${count(header[1])} test points where the run has `
      + `${count(nTrain)} and ${count(nTest)}. Reload the page; if it stays, compute the run again.`, 0);
  }
  const at = new Float32Array(buffer, start, 2 * total);
  const bytes = (place, length) => new Uint8Array(buffer, start + place * total, length);
  const points = {
    nTrain, nTest, total, at,
    classes: bytes(8, total), marks: bytes(9, total), predictions: bytes(10, total),
    /* self-influence: code c of 0..254 stands between the quantiles c / 255 and (c + 1) / 255; null without */
    codes: steps ? bytes(11, nTrain) : null,
    quantiles: [...new Float32Array(buffer, 16, steps)],
    ...await center(at, total),
  };
  points.grid = await buildGrid(points);
  points.order = await shuffled(nTrain);
  return points;
}

/* Moves the points into map units (see camera.js), in place. A point without a place on this map goes far outside.
 * explorer/shown/selection.py takes the same steps: both must agree to the bit on what a lasso holds. */
async function center(at, total) {
  let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
  await inParts(2 * total, 2 * PART, (from, to) => {
    for (let i = from; i < to; i += 2) {
      const x = at[i], y = at[i + 1];
      if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < low) low = y;
      if (y > high) high = y;
    }
  });
  const half = Math.max((right - left) / 2, (high - low) / 2) || 1;
  const midX = (left + right) / 2, midY = (low + high) / 2;
  let placed = 0;
  await inParts(2 * total, 2 * PART, (from, to) => {
    for (let i = from; i < to; i += 2) {
      if (Number.isFinite(at[i]) && Number.isFinite(at[i + 1])) {
        at[i] = (at[i] - midX) / half;
        at[i + 1] = (at[i + 1] - midY) / half;
        placed += 1;
      } else at[i] = at[i + 1] = 1e6;
    }
  });
  return { placed, halfX: (right - left) / 2 / half || 1, halfY: (high - low) / 2 / half || 1 };
}

/* The rows 0..n in an order drawn by lot, the same every time: its first k are a fair sample of all. */
async function shuffled(n) {
  const order = new Uint32Array(n);
  let state = 0x9e3779b9;
  await inParts(n, PART, (from, to) => {
    for (let i = from; i < to; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      const other = (state >>> 0) % (i + 1);
      order[i] = order[other];
      order[other] = i;
    }
  });
  return order;
}

/* A row over training examples; that of a lesson (`nTest` of them above 0) goes on over the test examples, and its strongest
 * are points. */
function decodeInfluence(buffer, nTrain, nTest = 0) {
  const total = nTrain + nTest, what = nTest ? "this lesson" : "this prediction's influence";
  if (buffer.byteLength < 16) expectBytes(buffer, 16 + total, what);
  const [n, towards, away] = new Uint32Array(buffer, 0, 3);
  expectBytes(buffer, 16 + 4 * (towards + away) + total, what);
  if (n !== total) {
    throw new LoadError(`The influence row has ${count(n)} examples where the run has ${count(total)}. `
      + "Reload the page; if it stays, compute the run again.", 0);
  }
  const start = 16 + 4 * (towards + away);
  return {
    scale: new Float32Array(buffer, 12, 1)[0],
    towards: new Int32Array(buffer, 16, towards),
    away: new Int32Array(buffer, 16 + 4 * towards, away),
    values: new Int8Array(buffer, start, nTrain),
    tests: nTest ? new Int8Array(buffer, start + nTrain, nTest) : null,
  };
}
