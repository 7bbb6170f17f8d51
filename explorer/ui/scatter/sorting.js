/* Which predictions fit what was asked, and in which order do they stand?
 *
 * Pure: lists in, places in them out. `queries` is what queries.json says, with what `prepare` adds.
 */

const SORTS = {
  worst: "worst confident mistakes first", sure: "most confident first", unsure: "least confident first",
  loss: "highest loss first", row: "row order",
};
const SORTS_OF_REGRESSION = ["worst", "loss", "row"];

/* Adds `at` (test row -> place), `byId` (lower-cased id -> place) and `text` (what a search looks through). `prompts`, of texts,
 * stand in the order of the test rows. */
function prepare(queries) {
  const { rows, ids, labels, predictions, prompts } = queries;
  queries.at = new Map(rows.map((row, i) => [row, i]));
  queries.byId = new Map();
  queries.text = rows.map((row, i) => {
    const id = String(ids[i]).toLowerCase();
    if (!queries.byId.has(id)) queries.byId.set(id, i);
    return `${id}\n${labels[i]}\n${predictions[i]}\n${prompts?.[row] ?? ""}`.toLowerCase();
  });
  return queries;
}

/* All places in the order of `sort`; what has no number stands last, equals stand as sent. */
function sorted({ rows, confidence, loss }, sort) {
  const order = Uint32Array.from(rows, (_, i) => i);
  const falling = (values) => Float64Array.from(values, (value) => value ?? -Infinity);
  const rising = (values) => Float64Array.from(values, (value) => (value === null ? -Infinity : -value));
  const keys = { sure: () => falling(confidence), unsure: () => rising(confidence), loss: () => falling(loss), row: () => rising(rows) }[sort]?.();
  return keys ? order.sort((a, b) => keys[b] - keys[a] || a - b) : order;
}

/* The place that `asked` names outright: an id, or # and a test row; -1 if it names none. */
function named(queries, asked) {
  const row = /^#\d+$/.test(asked) ? queries.at.get(Number(asked.slice(1))) : undefined;
  return queries.byId.get(asked) ?? row ?? -1;
}

/* Places that fit, in order: what is named outright first, then all that hold every word of `asked` (lower case). */
function search(queries, order, asked, fits) {
  const first = named(queries, asked);
  const words = asked.split(/\s+/).filter(Boolean);
  const { text } = queries;
  const found = first >= 0 && fits(first) ? [first] : [];
  for (const i of order) {
    if (i !== first && fits(i) && words.every((word) => text[i].includes(word))) found.push(i);
  }
  return found;
}
