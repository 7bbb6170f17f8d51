/* How is a dense map drawn where there is no graphics card?
 *
 * A browser that draws in software takes a microsecond and more for each point; squares and dots of a few px written straight into
 * an image take a fiftieth of that. The same pixels as those of shaders.js, blended in the same order.
 */

const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;

function drawsInSoftware(gl) {
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  return SOFTWARE.test(String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER)));
}

class Raster {
  start(width, height) {
    if (this.width !== width || this.height !== height) this.pixels = new Uint8Array(4 * width * height);
    else this.pixels.fill(0);
    this.width = width;
    this.height = height;
  }

  /* Draws the points `from` <= n < `to` of `places` as squares of `size` px in the colors (RGBA) of their tints. */
  add({ places, tints, palette }, from, to, { scale, offset }, size) {
    const { pixels, width, height } = this;
    const [perU, perV] = [(scale[0] * width) / 2, (scale[1] * height) / 2];
    const midX = ((offset[0] + 1) * width) / 2 - size / 2 - 0.5, midY = ((offset[1] + 1) * height) / 2 - size / 2 - 0.5;
    for (let n = from; n < to; n++) {
      const tint = tints[n];
      const left = Math.ceil(places[2 * n] * perU + midX), low = Math.ceil(places[2 * n + 1] * perV + midY);
      if (tint === 0 || left < 0 || low < 0 || left + size > width || low + size > height) continue;
      const opaque = palette[4 * tint + 3], rest = 255 - opaque;
      const red = palette[4 * tint] * opaque, green = palette[4 * tint + 1] * opaque, blue = palette[4 * tint + 2] * opaque;
      for (let y = low; y < low + size; y++) {
        for (let at = 4 * (y * width + left), end = at + 4 * size; at < end; at += 4) {
          pixels[at] = (red + pixels[at] * rest + 127) / 255;
          pixels[at + 1] = (green + pixels[at + 1] * rest + 127) / 255;
          pixels[at + 2] = (blue + pixels[at + 2] * rest + 127) / 255;
          pixels[at + 3] = opaque + (pixels[at + 3] * rest + 127) / 255;
        }
      }
    }
  }

  /* Draws all of `strong` (see strong.js), the strongest last, as stamps centered on whole px. `look` is the shader's. */
  addStrong({ bytes, n }, { scale, offset }, look) {
    const { pixels, width, height } = this;
    const places = new Float32Array(bytes.buffer), stamps = new Map();
    for (let k = n - 1; k >= 0; k--) {
      const value = bytes[k * STRONG_BYTES + 8], dim = bytes[k * STRONG_BYTES + 9];
      const x = Math.floor(((places[3 * k] * scale[0] + offset[0] + 1) * width) / 2);
      const y = Math.floor(((places[3 * k + 1] * scale[1] + offset[1] + 1) * height) / 2);
      const name = 2 * value + dim;
      let stamp = stamps.get(name);
      if (!stamp) stamps.set(name, stamp = stampOf(value, dim, look));
      const { reach, colors } = stamp, side = 2 * reach + 1;
      if (x < reach || y < reach || x + reach >= width || y + reach >= height) continue;
      for (let line = 0; line < side; line++) {
        let at = 4 * ((y - reach + line) * width + x - reach);
        for (let from = 4 * line * side, end = from + 4 * side; from < end; from += 4, at += 4) {
          const opaque = colors[from + 3];
          if (!opaque) continue;
          const rest = 1 - opaque / 255;
          pixels[at] = colors[from] + pixels[at] * rest + 0.5;
          pixels[at + 1] = colors[from + 1] + pixels[at + 1] * rest + 0.5;
          pixels[at + 2] = colors[from + 2] + pixels[at + 2] * rest + 0.5;
          pixels[at + 3] = opaque + pixels[at + 3] * rest + 0.5;
        }
      }
    }
  }
}

/* One dot as the shader of the strong ones draws it: { reach, colors: premultiplied RGBA of (2 reach + 1)^2 px }. */
function stampOf(value, dim, { base, grow, rimmed, faint, theme }) {
  const smooth = (low, high, x) => {
    const t = Math.min(1, Math.max(0, (x - low) / (high - low)));
    return t * t * (3 - 2 * t);
  };
  const strength = smooth(0.05, 0.95, Math.min(1, Math.abs(value) / 127));
  const radius = 0.5 * (base + grow * strength), reach = Math.floor(radius + (strength >= rimmed ? 1.5 : 0.5));
  const hue = mix(theme.muted, value < 0 ? theme.away : theme.towards, smooth(0, 0.45, strength));
  const inside = (edge, d) => Math.min(1, Math.max(0, edge - d + 0.5));
  const colors = new Float32Array(4 * (2 * reach + 1) ** 2);
  for (let place = 0; place < colors.length; place += 4) {
    const d = Math.hypot(((place / 4) % (2 * reach + 1)) - reach, Math.floor(place / 4 / (2 * reach + 1)) - reach);
    const dot = inside(radius, d), rim = strength >= rimmed ? 0.85 * inside(radius + 1, d) * Math.min(1, strength * 3) : 0;
    const cover = (dim ? 0.22 : 1) * Math.max(dot * (faint + (0.92 - faint) * Math.min(1, strength * 1.5)), rim);
    if (cover < 0.02) continue;
    colors.set([...mix(theme.background, hue, dot), 1].map((part) => 255 * part * cover), place);
  }
  return { reach, colors };
}
