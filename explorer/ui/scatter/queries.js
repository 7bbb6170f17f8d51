/* What is known of a test prediction, which explanation of it exists, and which come next?
 *
 * `queries` is what the list read from queries.json, with `at`: test row -> place. Without a list on the page it is
 * null and the map falls back on its own marks.
 */

const WRONG = 2;
/* Letters of a text in a line of words. */
const LINE_LETTERS = 90;
/* A hand that passes over does not rest. */
const LIKELY_MS = 30;

/* What only some runs have: answers that are right or wrong, and labels that are classes. */
const hasOutcomes = (task) => task !== "regression";
const hasClasses = (task) => task === "classification";

/* What the model says against what was given, in one line. */
function saidLine(task, { prediction, label, wrong }) {
  if (!hasOutcomes(task)) return `says ${number(Number(prediction))}, labeled ${number(Number(label))}`;
  if (hasClasses(task)) return `says ${prediction}, labeled ${label}`;
  const short = (text) => (text.length <= LINE_LETTERS ? text : `${text.slice(0, LINE_LETTERS - 1).trimEnd()}…`);
  return wrong ? `says “${short(prediction)}” where “${short(label)}” was given` : `says “${short(label)}”, as given`;
}

function queryFacts(queries, query) {
  const i = queries?.at.get(query);
  if (i === undefined) return null;
  return {
    id: queries.ids[i], label: queries.labels[i], prediction: queries.predictions[i],
    wrong: Boolean(queries.wrong[i]), ready: Boolean(queries.ready[i]),
  };
}

/* Where the label and the model's answer are the same class there is one explanation, kept under "label". */
function coincide(task, queries, points, query) {
  if (!hasOutcomes(task)) return false;
  const facts = queryFacts(queries, query);
  if (facts) return !facts.wrong;
  return points ? !(points.marks[points.nTrain + query] & WRONG) : false;
}

/* Says on the bus which test row the hand rests on, once it rests: what it may choose is fetched meanwhile. */
class Likely {
  constructor(source) {
    this.source = source;
    this.row = null;
  }

  /* `row` is null where the hand is on none. */
  over(channel, row) {
    if (row === this.row) return;
    this.row = row;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => channel?.publish({ likely: row }, this.source), LIKELY_MS);
  }

  dispose() {
    clearTimeout(this.timer);
  }
}

/* The next `few` test rows in the list's order (in row order without one) whose influence is computed. */
function upcoming({ query, order, queries }, few, total) {
  const at = order ? order.indexOf(query) : query;
  const next = order ? order.slice(at + 1, at + 1 + few)
    : Array.from({ length: few }, (_, i) => at + 1 + i).filter((row) => row < total);
  return next.filter((row) => queryFacts(queries, row)?.ready ?? true);
}
