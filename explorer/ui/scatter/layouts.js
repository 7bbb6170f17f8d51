/* Are the points of this layout here already?
 *
 * Fetches the points of a run's layout once and keeps those of the last few, so that coming back to one, or a
 * remount, needs no network.
 */

const KEPT_LAYOUTS = 3;
const keptPoints = new Map();

const layoutKey = (data) => `${data.run}/${data.layout}`;

async function layoutPoints(data, signal) {
  const key = layoutKey(data);
  if (keptPoints.has(key)) return keptPoints.get(key);
  const buffer = await load(route(data, `points/${data.layout}.bin`), `the ${LAYOUTS[data.layout]} map`, { signal });
  const points = await decodePoints(buffer, data.n_train, data.n_test);
  keptPoints.set(key, points);
  const room = points.total > LARGE ? 1 : KEPT_LAYOUTS;
  while (keptPoints.size > room) keptPoints.delete(keptPoints.keys().next().value);
  return points;
}
