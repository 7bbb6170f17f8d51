/* How are a million points drawn, colored by influence, in one frame?
 *
 * WebGL2: training points are round dots, blue towards and orange away, gray and faint where |influence| is small;
 * strength is also depth, so strong ones lie on top without sorting. Test points are hollow diamonds, wrongly
 * predicted ones crosses. It keeps no selection and no camera; marks.js draws what is numbered and ringed.
 */

const TRAIN_VERTEX = `#version 300 es
in vec2 place; in float influence;
uniform vec2 zoom, offset; uniform float base, grow;
flat out float strength; flat out float sign_; flat out float radius; flat out float size;
void main() {
  strength = smoothstep(0.05, 0.95, abs(influence));
  sign_ = influence;
  radius = 0.5 * (base + grow * strength);
  gl_Position = vec4(place * zoom + offset, 0.8 - 1.6 * strength, 1.0);
  size = 2.0 * radius + (strength > 0.02 ? 4.0 : 1.0);  /* room for the rim: the muted many have none */
  gl_PointSize = size;
}`;

const TRAIN_FRAGMENT = `#version 300 es
precision highp float;
flat in float strength; flat in float sign_; flat in float radius; flat in float size;
uniform vec3 muted, towards, away, ground; uniform float faint;
out vec4 color;
void main() {
  float d = length(gl_PointCoord - 0.5) * size;
  float dot_ = clamp(radius - d + 0.5, 0.0, 1.0);
  if (strength <= 0.02) {
    color = vec4(muted, 1.0) * (faint * dot_);
    return;
  }
  float rim = clamp(radius + 1.0 - d + 0.5, 0.0, 1.0) * 0.85;
  float cover = max(dot_ * mix(faint, 0.92, min(1.0, strength * 1.5)), rim * min(1.0, strength * 3.0));
  if (cover < 0.02) discard;
  vec3 hue = mix(muted, sign_ < 0.0 ? away : towards, smoothstep(0.0, 0.45, strength));
  color = vec4(mix(ground, hue, dot_) * cover, cover);
}`;

const TEST_VERTEX = `#version 300 es
in vec2 place; in float mark;
uniform vec2 zoom, offset; uniform float base;
out float wrong; out float half_;
void main() {
  wrong = mod(floor(mark / 2.0), 2.0);
  half_ = base * mix(1.0, 1.1, wrong);
  gl_Position = vec4(place * zoom + offset, mix(0.3, 0.1, wrong), 1.0);
  gl_PointSize = 2.0 * half_ + 4.0;
}`;

const TEST_FRAGMENT = `#version 300 es
precision highp float;
in float wrong; in float half_;
uniform vec3 ink, soft, ground; uniform float line, faint;
out vec4 color;
void main() {
  vec2 p = abs((gl_PointCoord - 0.5) * (2.0 * half_ + 4.0));
  float diamond = abs((p.x + p.y - half_) * 0.7071);
  float reach = max(p.x, p.y) - half_ * 0.72;
  float cross_ = max(abs(p.x - p.y) * 0.7071, reach);
  float d = wrong > 0.5 ? cross_ : diamond;
  float wide = wrong > 0.5 ? line * 1.25 : line;
  float stroke = clamp(wide * 0.5 - d + 0.5, 0.0, 1.0);
  float halo = wrong > 0.5 ? clamp(wide * 0.5 + line - d + 0.5, 0.0, 1.0) * 0.9 : 0.0;
  float cover = max(stroke * mix(faint, 1.0, wrong), halo);
  if (cover < 0.02) discard;
  color = vec4(mix(ground, wrong > 0.5 ? ink : soft, stroke) * cover, cover);
}`;

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`The map's shaders do not link: ${gl.getProgramInfoLog(made)}`);
  }
  const places = {};
  for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(made, i);
    places[name] = gl.getUniformLocation(made, name);
  }
  return { made, places, attribute: (name) => gl.getAttribLocation(made, name) };
}

/* Sizes in CSS px and faintness for so many points: a dense map is made of finer, fainter dots. */
function grain(total) {
  if (total < 4_000) return { base: 4.6, grow: 6, faint: 0.6 };
  if (total < 20_000) return { base: 3.8, grow: 6, faint: 0.5 };
  if (total < 200_000) return { base: 2.8, grow: 5.5, faint: 0.36 };
  return { base: 1.8, grow: 5, faint: 0.22 };
}

class PointsGL {
  /* Throws if the browser has no WebGL2. */
  constructor(canvas) {
    this.gl = canvas.getContext("webgl2", { antialias: false, alpha: true, premultipliedAlpha: true, depth: true });
    if (!this.gl) throw new Error("no WebGL2");
    this.points = null;
    this.values = null;
    this.build();
  }

  /* Everything that lives on the graphics card; again after it was lost. */
  build() {
    const { gl } = this;
    this.train = program(gl, TRAIN_VERTEX, TRAIN_FRAGMENT);
    this.test = program(gl, TEST_VERTEX, TEST_FRAGMENT);
    this.buffers = { places: gl.createBuffer(), influence: gl.createBuffer(), marks: gl.createBuffer() };
    this.trainArrays = gl.createVertexArray();
    this.testArrays = gl.createVertexArray();
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
    const { points, values } = this;
    if (points) this.setPoints(points);
    if (values) this.setValues(values);
  }

  setPoints(points) {
    const { gl, buffers } = this;
    this.points = points;
    this.values = null;
    const bind = (where, buffer, size, kind, normalized, offset) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(where);
      gl.vertexAttribPointer(where, size, kind, normalized, 0, offset);
    };
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.places);
    gl.bufferData(gl.ARRAY_BUFFER, points.at, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.influence);
    gl.bufferData(gl.ARRAY_BUFFER, new Int8Array(points.nTrain), gl.DYNAMIC_DRAW);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.marks);
    gl.bufferData(gl.ARRAY_BUFFER, points.marks.subarray(points.nTrain), gl.STATIC_DRAW);
    gl.bindVertexArray(this.trainArrays);
    bind(this.train.attribute("place"), buffers.places, 2, gl.FLOAT, false, 0);
    bind(this.train.attribute("influence"), buffers.influence, 1, gl.BYTE, true, 0);
    gl.bindVertexArray(this.testArrays);
    bind(this.test.attribute("place"), buffers.places, 2, gl.FLOAT, false, 8 * points.nTrain);
    bind(this.test.attribute("mark"), buffers.marks, 1, gl.UNSIGNED_BYTE, false, 0);
    gl.bindVertexArray(null);
  }

  /* Int8Array of influence per training row; null mutes every point. */
  setValues(values) {
    const { gl } = this;
    if (this.values === null && values === null) return;
    this.values = values;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers.influence);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, values ?? new Int8Array(this.points.nTrain));
  }

  draw(camera, theme, ratio) {
    const { gl, points, train, test } = this;
    if (gl.isContextLost()) return;
    gl.viewport(0, 0, gl.canvas.width, gl.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!points) return;
    const { scale, offset } = camera.clip;
    const closer = Math.min(2.4, Math.pow(Math.max(camera.at.k, 1), 0.3)) * ratio;
    const { base, grow, faint } = grain(points.total);
    gl.useProgram(train.made);
    gl.uniform2fv(train.places.zoom, scale);
    gl.uniform2fv(train.places.offset, offset);
    gl.uniform1f(train.places.base, base * closer);
    gl.uniform1f(train.places.grow, grow * ratio);
    gl.uniform1f(train.places.faint, Math.min(0.75, faint * Math.pow(Math.max(camera.at.k, 1), 0.25)));
    gl.uniform3fv(train.places.muted, theme.muted);
    gl.uniform3fv(train.places.towards, theme.towards);
    gl.uniform3fv(train.places.away, theme.away);
    gl.uniform3fv(train.places.ground, theme.background);
    gl.bindVertexArray(this.trainArrays);
    gl.drawArrays(gl.POINTS, 0, points.nTrain);
    gl.useProgram(test.made);
    gl.uniform2fv(test.places.zoom, scale);
    gl.uniform2fv(test.places.offset, offset);
    gl.uniform1f(test.places.base, (points.nTest > 800 ? 3.4 : 4.2) * closer);
    gl.uniform1f(test.places.line, 1.25 * ratio);
    gl.uniform1f(test.places.faint, points.nTest > 3000 ? 0.3 : points.nTest > 800 ? 0.5 : 0.75);
    gl.uniform3fv(test.places.ink, theme.text);
    gl.uniform3fv(test.places.soft, mix(theme.background, theme.text, points.nTest > 800 ? 0.78 : 0.85));
    gl.uniform3fv(test.places.ground, theme.background);
    gl.bindVertexArray(this.testArrays);
    gl.drawArrays(gl.POINTS, 0, points.nTest);
    gl.bindVertexArray(null);
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
