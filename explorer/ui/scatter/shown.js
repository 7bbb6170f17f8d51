/* Which points does the filter let through, which are selected, and how many are that?
 *
 * Plain loops over bytes: the rules of explorer/shown/filters.py and explorer/shown/selection.py, to the bit. It draws nothing.
 */

/* Does the filter ask for influence, so that the next row shows other points? */
function asksRow(filter) {
  return filter.sign !== "both" || filter.low !== null || filter.high !== null;
}

/* Writes 1 into `out` for every shown point, 0 for the others. */
function shownMask({ nTrain, total, classes, marks }, row, filter, out) {
  const allowed = new Uint8Array(256).fill(filter.classes ? 0 : 1);
  for (const number_ of filter.classes ?? []) if (number_ < NO_CLASS) allowed[number_] = 1;
  const fits = (mark) => filter.outcome === "all" || Boolean(mark & WRONG) === (filter.outcome === "wrong");
  const byTest = Uint8Array.from({ length: 256 }, (_, mark) => Number(fits(mark)));
  const asked = (filter.suspect ? SUSPECT : 0) | (filter.retrained ? RETRAINED : 0);
  const byTrain = byTest.map((fit, mark) => ((mark & asked) === asked ? fit : 0));
  const levels = row && asksRow(filter) ? shownLevels(row.scale, filter) : null;
  for (let i = 0; i < nTrain; i++) out[i] = allowed[classes[i]] & byTrain[marks[i]];
  if (levels) for (let i = 0; i < nTrain; i++) out[i] &= levels[row.values[i] & 255];
  for (let i = nTrain; i < total; i++) out[i] = allowed[classes[i]] & byTest[marks[i]];
  return out;
}

/* For each of the 256 bytes of an influence row: is a point with it shown? */
function shownLevels(scale, { sign, low, high }) {
  return Uint8Array.from({ length: 256 }, (_, byte) => {
    const level = byte < 128 ? byte : byte - 256;
    const influence = (level / 127) * scale;
    const fits = sign === "both" || (sign === "towards" ? level > 0 : level < 0);
    return Number(fits && (low === null || influence >= low) && (high === null || influence <= high));
  });
}

/* What the others on the page say of the picture; `inside` is null without a selection. */
function countShown({ nTrain, nTest, total }, shown, inside) {
  const sum = (from, to, also) => {
    let found = 0;
    if (also) for (let i = from; i < to; i++) found += shown[i] & also[i];
    else for (let i = from; i < to; i++) found += shown[i];
    return found;
  };
  return {
    train: nTrain, test: nTest, selected: inside !== null, shownTrain: sum(0, nTrain), shownTest: sum(nTrain, total),
    selectedTrain: inside ? sum(0, nTrain, inside) : 0, selectedTest: inside ? sum(nTrain, total, inside) : 0,
  };
}
