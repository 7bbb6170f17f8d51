/* How do a million points become pixels, a part at a time?
 *
 * WebGL2: three layers (layers.js) of points, drawn in an order drawn by lot so that any first part is a fair sample; the
 * strong ones strongest first. `start`, `step` and `show` are called by picture.js, which says when; it keeps no camera
 * and no selection. marks.js draws what is numbered and ringed.
 */

/* [of the first, of the rest]: what is drawn before what. */
const RANKS = { strong: [0, 3], ground: [1, 5], tests: [2, 4] };
const FIRST = { strong: 20_000, ground: 50_000, tests: 5_000 };
/* Work for one point, in squares drawn by the card. */
const COSTS = { strong: 2.5, ground: 1.5, tests: 5 };
const SQUARE_COST = 1;
/* The same without a card, for each px of a square or stamp. */
const PIXEL_COST = 0.015;
const SQUARES_BELOW = 2.6;
/* Where more are colored than this, rims would cover the neighbors. */
const RIMMED_UP_TO = 20_000;
const NO_RIM = 2;

/* Sizes in CSS px and faintness for so many points: a dense map is made of finer, fainter dots. */
function grain(total) {
  if (total < 4_000) return { base: 4.6, grow: 6, faint: 0.6 };
  if (total < 20_000) return { base: 3.8, grow: 6, faint: 0.5 };
  if (total < 200_000) return { base: 2.8, grow: 5.5, faint: 0.36 };
  return { base: 1.2, grow: 5, faint: 0.24 };
}

/* The same for test points, which lie over the others; `plain` ones have no color of their own. */
function testGrain(total, plain) {
  if (total <= 800) return { base: 4.2, crosses: 4.6, faint: 0.75 };
  if (total <= 3_000) return { base: 3.4, crosses: 3.7, faint: 0.5 };
  return { base: total <= 30_000 ? 2.5 : 1.8, crosses: 3.7, faint: plain ? 0.2 : 0.55 };
}

class PointsGL {
  /* Throws if the browser has no WebGL2. */
  constructor(canvas) {
    this.gl = canvas.getContext("webgl2", { antialias: false, alpha: true, premultipliedAlpha: true, depth: false });
    if (!this.gl) throw new Error("no WebGL2");
    this.points = this.tints = this.strong = this.palette = this.density = null;
    this.build();
  }

  /* Everything that lives on the graphics card; again after it was lost. */
  build() {
    const { gl } = this;
    const link = (name, vertex, fragment) => { this[name] = program(gl, vertex, fragment); };
    link("dots", GROUND_VERTEX, DOTS_FRAGMENT);
    link("squares", GROUND_VERTEX, SQUARES_FRAGMENT);
    link("strongs", STRONG_VERTEX, STRONG_FRAGMENT);
    link("diamonds", TEST_VERTEX, TEST_FRAGMENT);
    link("sheets", SHEET_VERTEX, SHEET_FRAGMENT);
    link("shades", SHEET_VERTEX, DENSITY_FRAGMENT);
    this.buffers = Object.fromEntries(["places", "tints", "strong", "marks"].map((name) => [name, gl.createBuffer()]));
    this.arrays = Object.fromEntries(["dots", "squares", "strongs", "diamonds", "none"].map((name) => [name, gl.createVertexArray()]));
    this.layers = Object.fromEntries(Object.keys(RANKS).map((name) => [name, new Layer(gl, {
      deep: name === "strong", first: FIRST[name], ranks: RANKS[name], cost: COSTS[name],
    })]));
    this.rasters = drawsInSoftware(gl) ? { ground: new Raster(), strong: new Raster(), tests: new Raster() } : null;
    this.paletteSheet = gl.createTexture();
    this.densitySheet = gl.createTexture();
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0, 0, 0, 0);
    gl.depthFunc(gl.LEQUAL);
    this.size = "";
    const { points, tints, strong, palette, density } = this;
    if (points) this.setPoints(points);
    if (palette) this.setPalette(palette);
    if (tints) this.setTints(tints);
    if (strong) this.setStrong(strong);
    if (points) this.setDensity(density);
  }

  setPoints(points) {
    const { gl, buffers, layers } = this;
    this.points = points;
    this.tints = this.strong = this.density = null;
    const { at, order, nTrain, nTest, total } = points;
    const places = new Float32Array(2 * total);
    for (let n = 0; n < nTrain; n++) {
      places[2 * n] = at[2 * order[n]];
      places[2 * n + 1] = at[2 * order[n] + 1];
    }
    places.set(at.subarray(2 * nTrain), 2 * nTrain);
    this.places = this.rasters ? places : null;
    this.fill(buffers.places, places);
    this.fill(buffers.tints, new Uint8Array(total));
    this.fill(buffers.marks, points.marks.subarray(nTrain));
    for (const name of ["dots", "squares"]) {
      this.bind(name, { place: [buffers.places, 2, gl.FLOAT, 0, 0], tint: [buffers.tints, 1, null, 0, 0] });
    }
    this.bind("diamonds", {
      place: [buffers.places, 2, gl.FLOAT, 0, 8 * nTrain], tint: [buffers.tints, 1, null, 0, nTrain],
      mark: [buffers.marks, 1, gl.UNSIGNED_BYTE, 0, 0],
    });
    layers.ground.total = nTrain;
    layers.tests.total = nTest;
    layers.strong.total = 0;
    for (const layer of Object.values(layers)) layer.clear();
  }

  fill(buffer, bytes) {
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, buffer);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, bytes, this.gl.DYNAMIC_DRAW);
  }

  /* `attributes`: name -> [buffer, size, kind (null: whole numbers of one byte), stride, offset] */
  bind(name, attributes) {
    const { gl } = this;
    gl.bindVertexArray(this.arrays[name]);
    for (const [attribute, [buffer, size, kind, stride, offset]] of Object.entries(attributes)) {
      const where = this[name].attribute(attribute);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(where);
      if (kind === null) gl.vertexAttribIPointer(where, size, gl.UNSIGNED_BYTE, stride, offset);
      else gl.vertexAttribPointer(where, size, kind, kind === gl.BYTE, stride, offset);
    }
    gl.bindVertexArray(null);
  }

  /* A tint per point in drawing order, see colors.js. */
  setTints(tints) {
    const { gl, layers } = this;
    this.tints = tints;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.tints);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, tints);
    layers.ground.discard();
    layers.tests.discard();
  }

  /* 256 colors, RGBA. */
  setPalette(palette) {
    const { gl, layers } = this;
    this.palette = palette;
    this.image(this.paletteSheet, gl.RGBA8, 256, 1, gl.RGBA, palette, gl.NEAREST);
    for (const layer of Object.values(layers)) layer.discard();
  }

  /* { bytes, n } of strong.js, strongest first; n = 0 for none. */
  setStrong(strong) {
    const { gl, buffers, layers } = this;
    this.strong = strong;
    this.fill(buffers.strong, strong.bytes);
    this.bind("strongs", {
      place: [buffers.strong, 2, gl.FLOAT, STRONG_BYTES, 0], influence: [buffers.strong, 1, gl.BYTE, STRONG_BYTES, 8],
      dim: [buffers.strong, 1, gl.UNSIGNED_BYTE, STRONG_BYTES, 9],
    });
    layers.strong.total = strong.n;
    layers.strong.discard();
  }

  /* { cells, across, down, box } of density.js, or null. */
  setDensity(density) {
    this.density = density;
    if (density) this.image(this.densitySheet, this.gl.R8, density.across, density.down, this.gl.RED, density.cells, this.gl.LINEAR);
  }

  image(texture, kept, width, height, format, bytes, way) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(gl.TEXTURE_2D, 0, kept, width, height, 0, format, gl.UNSIGNED_BYTE, bytes);
    for (const [what, value] of [[gl.TEXTURE_MIN_FILTER, way], [gl.TEXTURE_MAG_FILTER, way],
      [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE]]) gl.texParameteri(gl.TEXTURE_2D, what, value);
  }

  /* ---- drawing ---- */

  /* Layers have the size of the canvas. */
  fit() {
    const { width, height } = this.gl.canvas;
    if (this.size === `${width}x${height}`) return;
    this.size = `${width}x${height}`;
    for (const layer of Object.values(this.layers)) layer.resize(width, height);
  }

  /* How large is one dot at this camera, in px of the canvas? */
  dot(camera, ratio) {
    const closer = Math.min(2.4, Math.pow(Math.max(camera.at.k, 1), 0.3)) * ratio;
    return { closer, size: grain(this.points.total).base * closer };
  }

  /* Squares are drawn by the card, or without one by raster.js. */
  squared(camera, ratio) {
    const { size } = this.dot(camera, ratio);
    return size < SQUARES_BELOW ? Math.max(1, Math.round(size)) : 0;
  }

  /* What a point costs depends on how large it is drawn, and by what. */
  price(camera, ratio) {
    const square = this.squared(camera, ratio);
    const { ground, strong, tests } = this.layers;
    const { size, closer } = this.dot(camera, ratio);
    const area = (wide) => PIXEL_COST * Math.ceil(wide) ** 2;
    if (this.rasters) {
      ground.cost = area(square || size + 1);
      strong.cost = area(size + 2);
      tests.cost = area(2 * testGrain(this.points?.nTest ?? 0, this.plain).base * closer + 4);
    } else ground.cost = square ? SQUARE_COST : COSTS.ground;
  }

  /* Draws the next part of `layer` for at most `budget`; says how much work that was. */
  step(layer, camera, theme, ratio, budget) {
    const { gl, layers } = this;
    const few = layer.next(budget), first = layer.done;
    const name = Object.keys(layers).find((one) => layers[one] === layer);
    if (this.rasters) this.stamp(name, first, first + few, camera, theme, ratio);
    else {
      gl.viewport(0, 0, gl.canvas.width, gl.canvas.height);
      gl.enable(gl.BLEND);
      layer.bind();
      if (name === "ground") this.drawGround(first, few, camera, ratio);
      else if (name === "strong") this.drawStrong(first, few, camera, theme, ratio);
      else this.drawTests(first, few, camera, theme, ratio);
      gl.bindVertexArray(null);
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    }
    layer.advanced(few);
    return few * layer.cost;
  }

  /* Draws a part of a layer without a card. */
  stamp(name, from, to, { clip, at }, theme, ratio) {
    const { gl, rasters: { [name]: raster }, layers: { [name]: layer } } = this;
    const { width, height } = gl.canvas;
    if (from === 0) raster.start(width, height);
    const square = this.squared({ at }, ratio);
    if (name === "strong") raster.strong(this.strong, from, to, clip, this.strongLook({ at }, theme, ratio));
    else if (name === "tests") raster.tests(this, from, to, clip, this.testLook({ at }, theme, ratio));
    else if (square) raster.squares(this, from, to, clip, square);
    else raster.dots(this, from, to, clip, this.dot({ at }, ratio).size + 1);
    gl.bindTexture(gl.TEXTURE_2D, layer.now.texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, raster.pixels);
  }

  use(what, name, camera) {
    const { gl } = this;
    const { scale, offset } = camera.clip;
    gl.useProgram(what.made);
    gl.uniform2fv(what.places.zoom, scale);
    gl.uniform2fv(what.places.offset, offset);
    if (what.places.palette) {
      gl.activeTexture(gl.TEXTURE0);
      gl.bindTexture(gl.TEXTURE_2D, this.paletteSheet);
      gl.uniform1i(what.places.palette, 0);
    }
    gl.bindVertexArray(this.arrays[name]);
  }

  drawGround(first, few, camera, ratio) {
    const { gl } = this;
    const square = this.squared(camera, ratio);
    const name = square ? "squares" : "dots";
    this.use(this[name], name, camera);
    gl.uniform1f(this[name].places.size, square || this.dot(camera, ratio).size + 1);
    return gl.drawArrays(gl.POINTS, first, few);
  }

  /* Sizes in px of the canvas, and the rest of how strong points look; the same for shader and stamps. */
  strongLook(camera, theme, ratio) {
    const { base, grow, faint } = grain(this.points.total);
    return {
      base: Math.max(1.8, base) * this.dot(camera, ratio).closer, grow: grow * ratio, theme,
      rimmed: this.strong.n > RIMMED_UP_TO ? NO_RIM : 0.02,
      faint: Math.min(0.75, faint * Math.pow(Math.max(camera.at.k, 1), 0.25)),
    };
  }

  testLook(camera, theme, ratio) {
    const { nTest } = this.points, { closer } = this.dot(camera, ratio);
    const { base, crosses, faint } = testGrain(nTest, this.plain);
    return {
      base: base * closer, crosses: crosses * closer, line: 1.25 * ratio, faint, plain: this.plain, theme,
      soft: mix(theme.background, theme.text, nTest > 800 ? 0.78 : 0.85),
    };
  }

  drawStrong(first, few, camera, theme, ratio) {
    const { gl, strongs } = this;
    const look = this.strongLook(camera, theme, ratio);
    this.use(strongs, "strongs", camera);
    for (const name of ["base", "grow", "rimmed", "faint"]) gl.uniform1f(strongs.places[name], look[name]);
    gl.uniform3fv(strongs.places.muted, theme.muted);
    gl.uniform3fv(strongs.places.towards, theme.towards);
    gl.uniform3fv(strongs.places.away, theme.away);
    gl.uniform3fv(strongs.places.ground, theme.background);
    gl.enable(gl.DEPTH_TEST);
    gl.drawArrays(gl.POINTS, first, few);
    return gl.disable(gl.DEPTH_TEST);
  }

  drawTests(first, few, camera, theme, ratio) {
    const { gl, diamonds } = this;
    const look = this.testLook(camera, theme, ratio);
    this.use(diamonds, "diamonds", camera);
    for (const name of ["base", "crosses", "line", "faint"]) gl.uniform1f(diamonds.places[name], look[name]);
    gl.uniform1f(diamonds.places.plain, look.plain ? 1 : 0);
    gl.uniform3fv(diamonds.places.ink, theme.text);
    gl.uniform3fv(diamonds.places.soft, look.soft);
    gl.uniform3fv(diamonds.places.ground, theme.background);
    gl.drawArrays(gl.POINTS, first, few);
  }

  /* Puts density and layers on the screen as far as they are drawn. */
  show(view, theme) {
    const { gl, layers } = this;
    gl.viewport(0, 0, gl.canvas.width, gl.canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.bindVertexArray(this.arrays.none);
    gl.activeTexture(gl.TEXTURE0);
    if (this.density) this.showDensity(view, theme);
    gl.useProgram(this.sheets.made);
    for (const name of ["ground", "strong", "tests"]) {
      for (const [sheet, box, hole] of layers[name].sheets(view)) {
        gl.bindTexture(gl.TEXTURE_2D, sheet.texture);
        /* moved pictures need smoothing, one in its place is faster without */
        sheet.smooth(sheet.view.id !== view.id);
        gl.uniform1i(this.sheets.places.sheet, 0);
        gl.uniform4fv(this.sheets.places.box, box);
        gl.uniform4fv(this.sheets.places.hole, hole);
        gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
      }
    }
    gl.bindVertexArray(null);
  }

  showDensity({ scale, offset }, theme) {
    const { gl, shades, density } = this;
    const clip = density.box.map((value, i) => value * scale[i % 2] + offset[i % 2]);
    gl.useProgram(shades.made);
    gl.bindTexture(gl.TEXTURE_2D, this.densitySheet);
    gl.uniform1i(shades.places.sheet, 0);
    gl.uniform4fv(shades.places.box, clip);
    gl.uniform3fv(shades.places.ink, theme.text);
    gl.uniform1f(shades.places.levels, DENSITY_STEPS);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  /* Waits until the graphics card is done; for measuring only. */
  finish() {
    this.gl.readPixels(0, 0, 1, 1, this.gl.RGBA, this.gl.UNSIGNED_BYTE, new Uint8Array(4));
  }

  /* A page has few contexts: this one is given back, and the canvas that can have no other is replaced. */
  dispose() {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.gl.canvas.replaceWith(this.gl.canvas.cloneNode());
  }
}
