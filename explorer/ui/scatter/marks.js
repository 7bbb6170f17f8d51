/* What is drawn on top of the points: the ring, the numbered examples, the inspected one, what was lassoed?
 *
 * A 2D canvas over the WebGL one. Towards is a triangle up, away a triangle down; the number is that of the tile in
 * the gallery. Redrawn on every camera move, so it stays small: twenty marks and their labels.
 */

const NUMBERED = 10;
const FULL_TURN = 2 * Math.PI;
/* Where a number may stand around its mark: [direction, distance], near ones first. */
const LABEL_PLACES = [1, 1.9, 3, 4.2].flatMap((far) => Array.from({ length: 12 }, (_, i) => [(i * FULL_TURN) / 12, far]));

/* The first few training rows of each side, as drawn: [{ row, rank, towards }], the first ones last (on top). */
function numberedOf(row) {
  if (!row) return [];
  const side = (rows, towards) => [...rows.slice(0, NUMBERED)].map((train, i) => ({ row: train, rank: i + 1, towards }));
  return [...side(row.towards, true), ...side(row.away, false)].sort((a, b) => b.rank - a.rank);
}

class Marks {
  constructor(canvas) {
    this.context = canvas.getContext("2d");
  }

  /* `scene`: { points, query (point index or -1), inspected, hovered, pointed, numbered, drawing, selection ([u, v] corners) } */
  draw(camera, theme, ratio, scene) {
    const { context } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, camera.width, camera.height);
    const { points } = scene;
    if (!points) return;
    const place = (i) => camera.toScreen(points.at[2 * i], points.at[2 * i + 1]);
    if (scene.selection) this.outline(scene.selection.map(([u, v]) => camera.toScreen(u, v)), theme, 0.55);
    if (scene.drawing) this.outline(scene.drawing.map(([u, v]) => camera.toScreen(u, v)), theme, 1);
    if (scene.hovered >= 0) this.halo(place(scene.hovered), theme);
    if (scene.pointed >= 0) this.spot(place(scene.pointed), theme);
    const marks = scene.numbered.map((mark) => ({ ...mark, at: place(mark.row) }));
    this.leaders(this.label(marks, scene.query >= 0 ? place(scene.query) : null, theme), theme);
    for (const mark of marks) this.triangle(mark, theme);
    if (scene.inspected >= 0) this.brackets(place(scene.inspected), theme);
    if (scene.query >= 0) this.ring(place(scene.query), theme);
    for (const mark of marks) this.chip(mark, theme);
  }

  stroke(path, theme, color, width) {
    const { context } = this;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = css(theme.background);
    context.lineWidth = width + 3;
    context.stroke(path);
    context.strokeStyle = css(color);
    context.lineWidth = width;
    context.stroke(path);
  }

  ring([x, y], theme) {
    const path = new Path2D();
    path.arc(x, y, 10, 0, FULL_TURN);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      path.moveTo(x + 10 * dx, y + 10 * dy);
      path.lineTo(x + 15 * dx, y + 15 * dy);
    }
    this.stroke(path, theme, theme.text, 2.2);
  }

  halo([x, y], theme) {
    const path = new Path2D();
    path.arc(x, y, 7.5, 0, FULL_TURN);
    this.stroke(path, theme, mix(theme.background, theme.text, 0.65), 1.4);
  }

  /* A point that something elsewhere on the page points at. */
  spot([x, y], theme) {
    const path = new Path2D();
    for (const radius of [9, 14]) {
      path.moveTo(x + radius, y);
      path.arc(x, y, radius, 0, FULL_TURN);
    }
    this.stroke(path, theme, theme.text, 1.6);
  }

  /* What was drawn by hand, closed; `strength` 1 while it is drawn, less afterwards. */
  outline(corners, theme, strength) {
    const { context } = this;
    const path = new Path2D();
    corners.forEach((corner) => path.lineTo(...corner));
    path.closePath();
    context.lineJoin = "round";
    context.globalAlpha = strength;
    context.lineWidth = 1.4;
    context.strokeStyle = css(theme.text);
    context.setLineDash([5, 4]);
    context.stroke(path);
    context.setLineDash([]);
    context.globalAlpha = 0.05 * strength;
    context.fillStyle = css(theme.text);
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
  }

  brackets([x, y], theme) {
    const path = new Path2D();
    for (const [dx, dy] of [[1, 1], [1, -1], [-1, 1], [-1, -1]]) {
      path.moveTo(x + 12 * dx, y + 6 * dy);
      path.lineTo(x + 12 * dx, y + 12 * dy);
      path.lineTo(x + 6 * dx, y + 12 * dy);
    }
    this.stroke(path, theme, theme.text, 1.8);
  }

  triangle({ at: [x, y], towards }, theme) {
    const { context } = this;
    const up = towards ? -1 : 1;
    const path = new Path2D();
    path.moveTo(x, y + 7.6 * up);
    path.lineTo(x + 7.2, y - 5 * up);
    path.lineTo(x - 7.2, y - 5 * up);
    path.closePath();
    this.stroke(path, theme, theme.text, 2.6);
    context.fillStyle = css(towards ? theme.towards : theme.away);
    context.fill(path);
  }

  /* Gives every mark a place for its number: free of the others as far as can be, near, and outwards from the query.
   * The first ranks choose first. Only distances count, so a pan moves no label. */
  label(marks, query, theme) {
    const { context } = this;
    context.font = `600 12px ${theme.font}`;
    const taken = marks.map(({ at: [x, y] }) => [x - 8, y - 8, x + 8, y + 8]);
    if (query) taken.push([query[0] - 15, query[1] - 15, query[0] + 15, query[1] + 15]);
    for (const mark of [...marks].reverse()) {
      const [x, y] = mark.at;
      mark.text = String(mark.rank);
      mark.wide = Math.max(16, context.measureText(mark.text).width + 9);
      const out = query ? Math.atan2(y - query[1], x - query[0]) : 0;
      let least = Infinity;
      for (const [turn, far] of LABEL_PLACES) {
        const [cx, cy] = [x + Math.cos(turn) * (8 + mark.wide / 2) * far, y + Math.sin(turn) * 16 * far];
        const box = [cx - mark.wide / 2 - 1, cy - 9, cx + mark.wide / 2 + 1, cy + 9];
        const cost = taken.reduce((sum, other) => sum + overlap(box, other), 14 * far + 8 * (1 - Math.cos(turn - out)));
        if (cost < least) [least, mark.box, mark.center] = [cost, box, [cx, cy]];
      }
      taken.push(mark.box);
    }
    return marks;
  }

  leaders(marks, theme) {
    const { context } = this;
    context.lineWidth = 1;
    for (const { at, center, towards } of marks) {
      context.strokeStyle = css(mix(theme.background, towards ? theme.towards : theme.away, 0.75));
      context.beginPath();
      context.moveTo(...at);
      context.lineTo(...center);
      context.stroke();
    }
  }

  chip({ center: [x, y], wide, text, towards }, theme) {
    const { context } = this;
    context.beginPath();
    context.roundRect(x - wide / 2, y - 8, wide, 16, 5);
    context.fillStyle = css(theme.background);
    context.fill();
    context.strokeStyle = css(towards ? theme.towards : theme.away);
    context.lineWidth = 1.3;
    context.stroke();
    context.fillStyle = css(theme.text);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, x, y + 0.5);
  }
}

function overlap([a0, b0, a1, b1], [c0, d0, c1, d1]) {
  return Math.max(0, Math.min(a1, c1) - Math.max(a0, c0)) * Math.max(0, Math.min(b1, d1) - Math.max(b0, d0));
}
