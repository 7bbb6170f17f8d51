/* What does the graphics card run for each point, and for each layer put on the screen?
 *
 * Training points are dots, or squares of a few px where they are many; their color comes from a palette by their tint:
 * 0 is hidden, a tint above 127 is the same color dimmed. Those that moved the prediction are drawn over them, blue
 * towards and orange away, larger the stronger. Test points are hollow diamonds, wrongly predicted ones crosses.
 */

const HIDDEN = "gl_Position = vec4(9.0, 9.0, 9.0, 1.0); gl_PointSize = 1.0;";

const GROUND_VERTEX = `#version 300 es
in vec2 place; in uint tint;
uniform vec2 zoom, offset; uniform float size; uniform sampler2D palette;
flat out vec4 hue;
void main() {
  hue = texelFetch(palette, ivec2(int(tint), 0), 0);
  if (tint == 0u) { ${HIDDEN} return; }
  gl_Position = vec4(place * zoom + offset, 0.0, 1.0);
  gl_PointSize = size;
}`;

const DOTS_FRAGMENT = `#version 300 es
precision highp float;
flat in vec4 hue;
uniform float size;
out vec4 color;
void main() {
  float cover = clamp(0.5 * size - length(gl_PointCoord - 0.5) * size, 0.0, 1.0);
  color = vec4(hue.rgb, 1.0) * (hue.a * cover);
}`;

const SQUARES_FRAGMENT = `#version 300 es
precision mediump float;
flat in vec4 hue;
out vec4 color;
void main() { color = vec4(hue.rgb, 1.0) * hue.a; }`;

const STRONG_VERTEX = `#version 300 es
in vec2 place; in float influence; in float dim;
uniform vec2 zoom, offset; uniform float base, grow, rimmed;
flat out float strength; flat out float sign_; flat out float radius; flat out float size; flat out float rim_; flat out float fade;
void main() {
  strength = smoothstep(0.05, 0.95, abs(influence));
  sign_ = influence;
  radius = 0.5 * (base + grow * strength);
  rim_ = step(rimmed, strength);
  fade = mix(1.0, 0.22, dim);
  gl_Position = vec4(place * zoom + offset, 0.8 - 1.6 * strength * (1.0 - 0.9 * dim), 1.0);
  size = 2.0 * radius + (rim_ > 0.5 ? 4.0 : 1.0);  /* room for the rim */
  gl_PointSize = size;
}`;

const STRONG_FRAGMENT = `#version 300 es
precision highp float;
flat in float strength; flat in float sign_; flat in float radius; flat in float size; flat in float rim_; flat in float fade;
uniform vec3 muted, towards, away, ground; uniform float faint;
out vec4 color;
void main() {
  float d = length(gl_PointCoord - 0.5) * size;
  float dot_ = clamp(radius - d + 0.5, 0.0, 1.0);
  float rim = clamp(radius + 1.0 - d + 0.5, 0.0, 1.0) * 0.85 * rim_;
  float cover = fade * max(dot_ * mix(faint, 0.92, min(1.0, strength * 1.5)), rim * min(1.0, strength * 3.0));
  if (cover < 0.02) discard;
  vec3 hue = mix(muted, sign_ < 0.0 ? away : towards, smoothstep(0.0, 0.45, strength));
  color = vec4(mix(ground, hue, dot_) * cover, cover);
}`;

const TEST_VERTEX = `#version 300 es
in vec2 place; in float mark; in uint tint;
uniform vec2 zoom, offset; uniform float base, crosses; uniform sampler2D palette;
flat out float wrong; flat out float half_; flat out float fade; flat out vec4 hue;
void main() {
  wrong = mod(floor(mark / 2.0), 2.0);
  half_ = mix(base, crosses, wrong);
  fade = tint > 127u ? 0.3 : 1.0;
  hue = texelFetch(palette, ivec2(int(tint & 127u), 0), 0);
  if (tint == 0u) { ${HIDDEN} return; }
  gl_Position = vec4(place * zoom + offset, 0.0, 1.0);
  gl_PointSize = 2.0 * half_ + 4.0;
}`;

const TEST_FRAGMENT = `#version 300 es
precision highp float;
flat in float wrong; flat in float half_; flat in float fade; flat in vec4 hue;
uniform vec3 ink, soft, ground; uniform float line, faint, plain;
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
  float cover = fade * max(stroke * mix(faint, 1.0, wrong), halo);
  if (cover < 0.02) discard;
  vec3 pen = mix(hue.rgb, wrong > 0.5 ? ink : soft, plain);
  color = vec4(mix(ground, pen, stroke) * cover, cover);
}`;

/* A picture of what was in clip space when it was made, put where that is now; nothing within `hole` (clip space). */
const SHEET_VERTEX = `#version 300 es
uniform vec4 box;  /* left, low, right, high */
out vec2 at; out vec2 clip;
void main() {
  at = vec2(gl_VertexID & 1, gl_VertexID >> 1);
  clip = mix(box.xy, box.zw, at);
  gl_Position = vec4(clip, 0.0, 1.0);
}`;

const SHEET_FRAGMENT = `#version 300 es
precision highp float;
in vec2 at; in vec2 clip;
uniform sampler2D sheet; uniform vec4 hole;
out vec4 color;
void main() {
  if (clip.x > hole.x && clip.y > hole.y && clip.x < hole.z && clip.y < hole.w) discard;
  color = texture(sheet, at);
}`;

/* How crowded it is (0..1 on a log scale) as soft steps with a line where a step begins. */
const DENSITY_FRAGMENT = `#version 300 es
precision highp float;
in vec2 at; in vec2 clip;
uniform sampler2D sheet; uniform vec3 ink; uniform float levels;
out vec4 color;
void main() {
  float crowd = texture(sheet, at).r * levels;
  float step_ = floor(crowd);
  float width = max(fwidth(crowd), 1e-4);
  float edge = crowd < 0.5 ? 0.0 : 1.0 - clamp(min(fract(crowd), 1.0 - fract(crowd)) / width, 0.0, 1.0);
  float cover = 0.028 * step_ + 0.10 * edge * step(0.5, crowd);
  color = vec4(ink, 1.0) * cover;
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
