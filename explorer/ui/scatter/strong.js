/* Which training points moved this prediction, strongest first?
 *
 * A counting sort of the shown points by |influence|, packed for the graphics card: float32 u, v; int8 influence;
 * uint8 1 if dimmed; two bytes of nothing. Weaker ones than WEAKEST stay as gray as the rest.
 */

const STRONG_BYTES = 12;
/* Of 127; below it the color cannot be told from gray. */
const WEAKEST = 24;

/* `inside` is null without a selection. */
function strongest({ at, nTrain }, row, shown, inside) {
  if (!row) return { bytes: new Uint8Array(0), n: 0 };
  const { values } = row;
  const next = new Uint32Array(130);
  for (let i = 0; i < nTrain; i++) if (shown[i]) next[128 - Math.abs(values[i])] += 1;
  let n = 0;
  for (let level = 0; level <= 128; level++) [next[level], n] = [n, n + (level <= 128 - WEAKEST ? next[level] : 0)];
  const bytes = new ArrayBuffer(n * STRONG_BYTES);
  const places = new Float32Array(bytes), small = new Int8Array(bytes);
  for (let i = 0; i < nTrain; i++) {
    const size = Math.abs(values[i]);
    if (size < WEAKEST || !shown[i]) continue;
    const place = next[128 - size]++;
    places[place * 3] = at[2 * i];
    places[place * 3 + 1] = at[2 * i + 1];
    small[place * STRONG_BYTES + 8] = values[i];
    small[place * STRONG_BYTES + 9] = inside && !inside[i] ? 1 : 0;
  }
  return { bytes: small, n };
}
