/* What does the map say in words: hover card, accessible name, summaries, legend?
 *
 * Plain data in, lines of text out; the caller puts them on screen with textContent.
 */

const LAYOUTS = { pca: "PCA", umap: "UMAP" };

function className(data, number_) {
  if (number_ === NO_CLASS) return null;
  return data.classes[number_] ?? `class ${number_}`;
}

/* `read`: the text that was given stands beside the lines. */
function testLines(data, points, queries, query, read = false) {
  const facts = queryFacts(queries, query);
  const lines = [`Test row ${query}` + (facts ? ` · ${facts.id}` : "")];
  const i = points.nTrain + query;
  if (facts) {
    if (read) lines.push(facts.wrong ? `✗ the model says “${beginning(facts.prediction)}”` : "✓ the model says so");
    const verdict = !hasOutcomes(data.task) ? "" : facts.wrong ? " ✗" : " ✓";
    if (!read) lines.push(`${saidLine(data.task, facts)}${verdict}`);
  } else {
    const label = className(data, points.classes[i]), said = className(data, points.predictions[i]);
    if (label !== null) lines.push(said === null ? `labeled ${label}` : `says ${said}, labeled ${label}`);
    if (hasOutcomes(data.task)) lines.push(points.marks[i] & WRONG ? "✗ predicted wrongly" : "✓ predicted rightly");
  }
  if (points.marks[i] & PLANTED) lines.push("planted fault");
  return lines;
}

function influenceLine(data, row, train) {
  const value = (row.values[train] / 127) * row.scale;
  const clipped = Math.abs(row.values[train]) === 127 ? " or more" : "";
  const side = value > 0 ? "▲ towards" : value < 0 ? "▼ away" : "no influence";
  return value === 0 ? `${side} (less than ${number(row.scale / 254)})`
    : `${side} ${signed(value)}${clipped}${data.unit ? ` ${data.unit}` : ""}`;
}

function changeLine(data, value, scale) {
  const change = (value / 127) * scale, more = Math.abs(value) === 127 ? " or more" : "";
  if (value === 0) return `no change (less than ${number(scale / 254)})`;
  return `${change > 0 ? "▲ improved" : "▼ got worse"} ${signed(change)}${more}${hasOutcomes(data.task) ? " nats" : ""}`;
}

function trainLines(data, points, row, train) {
  const lines = [`Training row ${train}`];
  const label = className(data, points.classes[train]);
  if (label !== null) lines.push(`labeled ${label}`);
  const said = className(data, points.predictions[train]);
  if (data.task === "sequence") lines.push(points.marks[train] & WRONG ? "✗ the model says something else" : "✓ the model says so");
  if (said !== null && label !== null) lines[1] = `says ${said}, labeled ${label}${points.marks[train] & WRONG ? " ✗" : " ✓"}`;
  if (row) lines.push(row.tests ? changeLine(data, row.values[train], row.scale) : influenceLine(data, row, train));
  const rank = row && !row.tests ? [[row.towards.indexOf(train), "towards"], [row.away.indexOf(train), "away"]].find(([at]) => at >= 0) : null;
  if (rank) lines.push(`number ${rank[0] + 1} ${rank[1]}`);
  if (points.marks[train] & SUSPECT) lines.push("suspect");
  if (points.marks[train] & RETRAINED) lines.push("memorized, by retraining");
  if (points.marks[train] & PLANTED) lines.push("planted fault");
  return lines;
}

function summary(data, points, queries, query, target, row) {
  const about = testLines(data, points, queries, query).join(", ");
  const [given, own] = data.task === "sequence" ? ["words", "words"] : ["label", "answer"];
  const asked = target === "label" ? `given ${given}` : `model's ${own}`;
  if (!row) return `${about}; explaining the ${asked}.`;
  return `${about}; explaining the ${asked}. ${row.towards.length} strongest examples towards and ${row.away.length} away; `
    + `the scale is plus or minus ${number(row.scale)}.`;
}

function lessonSummary(data, points, row, train) {
  const about = trainLines(data, points, null, train).join(", ");
  return `Taught once: ${about}. Colored by what improved and what got worse; the scale is plus or minus ${number(row.scale)}.`;
}

function mapName(data, points, about) {
  return `Map (${LAYOUTS[data.layout] ?? data.layout}) of ${count(points.nTrain)} training and ${count(points.nTest)} test examples. ${about}`;
}

/* "1,200 of 1,800 points shown, 300 in view, 42 selected", as far as there is something to say. */
function countLine(counts, inView, share) {
  const shown = counts.shownTrain + counts.shownTest, selected = counts.selectedTrain + counts.selectedTest;
  const parts = [`${count(shown)} of ${count(counts.train + counts.test)} points shown`];
  if (inView !== null && inView < shown) parts.push(`${count(inView)} in view`);
  if (counts.selected) parts.push(`${count(selected)} selected`);
  if (share < 1) parts.push(`${Math.floor(100 * share)} % drawn`);
  return parts.join(", ");
}
