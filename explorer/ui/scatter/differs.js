/* Which words of an answer are not those that were given?
 *
 * The rule of explorer/ui/views/differs.py: as many words are compared one by one, else what is left between the same beginning and the same
 * end is another. Texts in, pieces [text, whether it differs] out.
 */

const WORDS = /[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]/gu;
const NOTHING = "∅";
/* Letters left of what both texts begin with. */
const BOTH_BEGIN = 10;

/* Stretches [from, to) of the words `said` that differ from `given`; an empty one where words are missing. */
function others(given, said) {
  if (given.length === said.length) return said.flatMap((word, i) => (word === given[i] ? [] : [[i, i + 1]]));
  const shorter = Math.min(given.length, said.length);
  let first = 0, last = 0;
  while (first < shorter && given[first] === said[first]) first += 1;
  while (last < shorter - first && given.at(-1 - last) === said.at(-1 - last)) last += 1;
  return [[first, said.length - last]];
}

function marked(given, said) {
  const mine = [...said.matchAll(WORDS)], asked = given.match(WORDS) ?? [];
  const pieces = [];
  let at = 0;
  for (const [from, to] of others(asked, mine.map(([word]) => word))) {
    const first = mine[from]?.index ?? said.length;
    const last = to > from ? mine[to - 1].index + mine[to - 1][0].length : first;
    pieces.push([said.slice(at, first), false]);
    if (last > first) pieces.push([said.slice(first, last), true]);
    else if (first < said.length) pieces.push([NOTHING, true], [" ", false]);
    else pieces.push([said ? " " : "", false], [NOTHING, true]);
    at = last;
  }
  return [...pieces, [said.slice(at), false]].filter(([text]) => text);
}

/* An answer in pieces and what was given, for two short lines: what both begin with is cut to its end. */
function sideBySide(given, said) {
  const pieces = marked(given, said);
  const [[first, differs] = ["", true]] = pieces;
  const cut = differs || !given.startsWith(first) ? 0 : first.length - BOTH_BEGIN;
  if (cut <= 0) return { pieces, given };
  pieces[0] = [`…${first.slice(cut)}`, false];
  return { pieces, given: `…${given.slice(cut)}` };
}
