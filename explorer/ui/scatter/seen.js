/* What of the points is on the map, and in which colors?
 *
 * Keeps the masks of what the filter shows and the selection holds, and hands the picture new tints, strong points and
 * density exactly when something they are made of has changed. `told({ counts })` hears how many points that is.
 */

class Seen {
  constructor(picture, told) {
    this.picture = picture;
    this.told = told;
    this.now = { points: null, row: null, filter: NO_FILTER, color: "influence", selection: null, layout: null };
    this.shown = this.inside = this.counts = null;
    this.crowd = null;
    this.turn = 0;
  }

  /* `next`: any of points, row, filter, color, selection (as on the bus), layout. */
  update(next) {
    const was = this.now;
    const now = { ...was, ...next };
    now.color = colorMode(now.color);
    now.mode = now.color === "influence" && now.row?.tests ? LESSON : now.color;
    this.now = now;
    const differs = (...names) => names.some((name) => was[name] !== now[name]);
    const { points, row, filter, color, mode } = now;
    if (!points) return;
    const anew = differs("points");
    const filtered = anew || differs("filter") || (differs("row") && asksRow(filter));
    const selected = anew || differs("selection", "layout");
    if (anew) [this.shown, this.tints] = [new Uint8Array(points.total), new Uint8Array(points.total)];
    if (filtered) shownMask(points, row, filter, this.shown);
    if (selected) this.inside = this.select(points);
    if (anew || differs("mode")) this.retheme(this.picture.theme);
    if (filtered || selected || differs("mode") || (mode === LESSON && differs("row"))) {
      this.picture.tint(tintPoints(points, mode, this.shown, this.inside, this.tints, row));
    }
    if (filtered || selected || differs("row", "color")) {
      const strong = strongest(points, color === "influence" ? row : null, this.shown, this.inside);
      this.picture.strong(strong, row !== null && (anew || differs("row")));
    }
    if (filtered || selected) {
      this.counts = countShown(points, this.shown, this.inside);
      this.told(this.counts);
    }
    if (filtered) this.crowded();
  }

  /* A byte a point, or null where nothing is selected on this layout. */
  select(points) {
    const { selection, layout } = this.now;
    if (!selection || selection.layout !== layout) return null;
    return insideMask(points, selection.polygon, this.inside?.length === points.total ? this.inside : new Uint8Array(points.total));
  }

  retheme(theme) {
    const { points, mode } = this.now;
    if (!points || !theme) return;
    this.picture.paint(paletteOf(mode, theme, grain(points.total).faint), TESTS_PLAIN.has(mode));
  }

  /* `wanted` true or false once the user has said so; else by the number of points. */
  wantDensity(wanted) {
    this.wanted = wanted;
    this.crowded();
  }

  get wantsDensity() {
    return this.wanted ?? (this.now.points?.total ?? 0) > DENSITY_ABOVE;
  }

  async crowded() {
    const turn = ++this.turn;
    const { points } = this.now;
    if (!this.wantsDensity || !points) return this.picture.density(null);
    await new Promise((soon) => setTimeout(soon, 60));
    if (turn !== this.turn) return undefined;
    const density = await densityOf(points, this.shown, () => turn !== this.turn);
    return density && this.picture.density(density);
  }

  dispose() {
    this.turn += 1;
  }
}
