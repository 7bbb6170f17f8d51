/* How is the map saved as a picture that explains itself?
 *
 * The map as drawn on the theme's ground, with lines of text below it and the colors' key. A stored picture has no page
 * around it: run, prediction, colors and counts must be in it.
 */

const CAPTION_PX = 13;
const LINE_PX = 20;

/* `picture` must be whole; `lines` of text; `key` [{ hue, text }] of colors. */
function pictureOf(picture, lines, key) {
  const { camera, ratio, theme } = picture;
  const pen = document.createElement("canvas").getContext("2d");
  const font = `${CAPTION_PX}px ${theme.font}`;
  pen.font = font;
  const rows = [...lines.flatMap((line) => wrapped(pen, line, camera.width - 20)), ...keyRows(pen, key, camera.width - 20)];
  pen.canvas.width = Math.round(camera.width * ratio);
  pen.canvas.height = Math.round((camera.height + LINE_PX * rows.length + 12) * ratio);
  pen.fillStyle = css(theme.background);
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
  /* in one go with drawing: the browser keeps no picture of a canvas that it has shown */
  picture.gl.show(picture.view(), theme);
  for (const canvas of [picture.canvas, picture.marks.context.canvas]) pen.drawImage(canvas, 0, 0);
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.font = font;
  pen.textBaseline = "middle";
  rows.forEach((row, n) => {
    const y = camera.height + 6 + LINE_PX * (n + 0.5);
    for (const { x, text, hue } of row) {
      pen.fillStyle = css(hue ?? theme.text);
      if (hue) pen.fillRect(x, y - 5, 11, 11);
      pen.fillStyle = css(theme.text);
      pen.fillText(text, x + (hue ? 16 : 0), y);
    }
  });
  return new Promise((done) => pen.canvas.toBlob(done, "image/png"));
}

/* A line of words as rows that fit. */
function wrapped(pen, line, width) {
  const rows = [[]];
  for (const word of line.split(" ")) {
    const row = rows.at(-1);
    if (row.length && pen.measureText([...row, word].join(" ")).width > width) rows.push([word]);
    else row.push(word);
  }
  return rows.map((row) => [{ x: 10, text: row.join(" ") }]);
}

function keyRows(pen, key, width) {
  const rows = [];
  let x = Infinity;
  for (const { hue, text } of key) {
    const wide = 16 + pen.measureText(text).width + 14;
    if (x + wide > width) {
      rows.push([]);
      x = 10;
    }
    rows.at(-1).push({ x, text, hue });
    x += wide;
  }
  return rows;
}

/* Offers a picture to be saved. */
function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
