/* How does long work leave the page its turn?
 *
 * `const rest = breather(); for (...) { part(); await rest(); }` hands the page back whenever the work has held it for
 * `ms`, so that a million points are read without a frame lost. It knows no work.
 */

const HELD_MS = 12;

function breather(ms = HELD_MS) {
  let since = performance.now();
  return async () => {
    if (performance.now() - since < ms) return;
    await new Promise((resume) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resume();
      };
      port2.postMessage(null);
    });
    since = performance.now();
  };
}

/* Calls `part(from, to)` over 0..total, with a rest after each. */
async function inParts(total, size, part) {
  const rest = breather();
  for (let from = 0; from < total; from += size) {
    part(from, Math.min(total, from + size));
    await rest();
  }
}
