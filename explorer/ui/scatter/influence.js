/* What is the influence row of this query, or of this lesson, and is it here already?
 *
 * Fetches rows, keeps the last few, and fetches the likely next ones while the user looks. Rows of one run and one
 * training set; `wanted` says what is worth finishing, the rest is stopped. It does not know what a row looks like
 * on the screen.
 */

const KEPT = 32;
const KEPT_OF_LARGE = 4;
const LARGE = 200_000;
/* Stands where the target of a query does: the row is that of a lesson, and the number that of a training example. */
const LESSON = "lesson";

class InfluenceRows {
  constructor(data) {
    this.data = data;
    this.kept = new Map();
    this.coming = new Map();
    this.room = data.n_train + data.n_test > LARGE ? KEPT_OF_LARGE : KEPT;
  }

  key(query, target) {
    return `${target}/${query}`;
  }

  /* The row if it is here, else undefined. Asking keeps it longer. */
  peek(query, target) {
    const key = this.key(query, target);
    const row = this.kept.get(key);
    if (row) {
      this.kept.delete(key);
      this.kept.set(key, row);
    }
    return row;
  }

  get(query, target, urgent = true) {
    const row = this.peek(query, target);
    if (row) return Promise.resolve(row);
    const key = this.key(query, target);
    if (!this.coming.has(key)) this.coming.set(key, this.fetch(key, urgent));
    return this.coming.get(key).promise;
  }

  fetch(key, urgent) {
    const stop = new AbortController();
    const promise = load(route(this.data, `influence/${key}.bin`), key.startsWith(`${LESSON}/`) ? "this lesson" : "this prediction's influence", { signal: stop.signal, urgent })
      .then((buffer) => {
        const row = decodeInfluence(buffer, this.data.n_train, key.startsWith(`${LESSON}/`) ? this.data.n_test : 0);
        this.kept.set(key, row);
        while (this.kept.size > this.room) this.kept.delete(this.kept.keys().next().value);
        return row;
      })
      .finally(() => {
        if (this.coming.get(key)?.stop === stop) this.coming.delete(key);
      });
    return { promise, stop };
  }

  /* Stops every fetch but these. */
  keepOnly(keys) {
    for (const [key, { stop }] of this.coming) {
      if (keys.includes(key)) continue;
      this.coming.delete(key);
      stop.abort();
    }
  }

  /* Fetches in the background; a failure is nobody's concern until the row is asked for. */
  prefetch(query, target) {
    this.get(query, target, false).catch(() => {});
  }
}
