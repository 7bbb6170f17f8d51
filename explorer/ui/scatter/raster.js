/* How is the map drawn where there is no graphics card?
 *
 * A browser that draws in software takes ten microseconds and more for each dot; stamps written straight into an image take
 * a fiftieth of that. The same shapes, colors and order as those of shaders.js; dots stand on quarters of a pixel.
 */

const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;
const QUARTERS = 4;

function drawsInSoftware(gl) {
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  return SOFTWARE.test(String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER)));
}

/* The picture of one layer: `pixels` are premultiplied RGBA, the lowest line first. */
class Raster {
  constructor() {
    this.stamps = [];
    this.style = [];
  }

  start(width, height) {
    if (this.width !== width || this.height !== height) this.pixels = new Uint8Array(4 * width * height);
    else this.pixels.fill(0);
    this.width = width;
    this.height = height;
  }

  /* Draws the points `from` <= n < `to` of `places` as squares of `size` px in the colors (RGBA) of their tints. */
  squares({ places, tints, palette }, from, to, { scale, offset }, size) {
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

  /* The same as round dots of `size` - 1 px. */
  dots({ places, tints, palette }, from, to, clip, size) {
    this.styled(size, palette);
    const make = (tint) => dotStamp(size, palette.subarray(4 * tint, 4 * tint + 4));
    for (let n = from; n < to; n++) if (tints[n]) this.stamp(places[2 * n], places[2 * n + 1], clip, tints[n], make, false);
  }

  /* Draws `from` <= k < `to` of `strong` (see strong.js), each below those before it. `look` is the shader's. */
  strong({ bytes }, from, to, clip, look) {
    this.styled(look.base, look.grow, look.rimmed, look.faint, look.theme);
    const places = new Float32Array(bytes.buffer);
    const make = (kind) => strongStamp(((kind >> 1) << 24) >> 24, kind & 1, look);
    for (let k = from; k < to; k++) {
      const kind = 2 * bytes[k * STRONG_BYTES + 8] + bytes[k * STRONG_BYTES + 9];
      this.stamp(places[3 * k], places[3 * k + 1], clip, kind, make, true);
    }
  }

  /* Draws the test points `from` <= n < `to`; `look` is the shader's. */
  tests({ places, tints, palette, points }, from, to, clip, look) {
    this.styled(look.base, look.crosses, look.line, look.plain, look.theme, palette);
    const { marks, nTrain } = points;
    const make = (kind) => testStamp(palette.subarray(4 * ((kind >> 1) & 127)), kind >> 1 > 127, kind & 1, look);
    for (let n = nTrain + from; n < nTrain + to; n++) {
      const kind = 2 * tints[n] + (marks[n] & WRONG ? 1 : 0);
      if (tints[n]) this.stamp(places[2 * n], places[2 * n + 1], clip, kind, make, false);
    }
  }

  /* Stamps are kept as long as they look the same. */
  styled(...style) {
    if (style.every((part, i) => part === this.style[i])) return;
    this.style = style;
    this.stamps = [];
  }

  /* Puts the stamp of this kind, made at first use, on the point (u, v): above what is there, or below it. */
  stamp(u, v, { scale, offset }, kind, make, below) {
    const { width, height, stamps } = this;
    const x = ((u * scale[0] + offset[0] + 1) * width) / 2, y = ((v * scale[1] + offset[1] + 1) * height) / 2;
    if (!(x >= 0 && y >= 0 && x < width && y < height)) return;
    const left = Math.floor(x), low = Math.floor(y);
    const partX = Math.floor((x - left) * QUARTERS), partY = Math.floor((y - low) * QUARTERS);
    const name = (kind * QUARTERS + partX) * QUARTERS + partY;
    const stamp = (stamps[name] ??= cut(make(kind), (partX + 0.5) / QUARTERS, (partY + 0.5) / QUARTERS));
    if (below) this.putBelow(stamp, left - stamp.reach, low - stamp.reach);
    else this.putAbove(stamp, left - stamp.reach, low - stamp.reach);
  }

  putAbove({ side, colors }, left, low) {
    const { pixels, width } = this;
    const [fromX, toX, fromY, toY] = this.within(left, low, side);
    for (let line = fromY; line < toY; line++) {
      let at = 4 * ((low + line) * width + left + fromX);
      for (let from = 4 * (line * side + fromX), end = 4 * (line * side + toX); from < end; from += 4, at += 4) {
        const opaque = colors[from + 3];
        if (opaque === 0) continue;
        const rest = 1 - opaque / 255;
        pixels[at] = colors[from] + pixels[at] * rest + 0.5;
        pixels[at + 1] = colors[from + 1] + pixels[at + 1] * rest + 0.5;
        pixels[at + 2] = colors[from + 2] + pixels[at + 2] * rest + 0.5;
        pixels[at + 3] = opaque + pixels[at + 3] * rest + 0.5;
      }
    }
  }

  putBelow({ side, colors }, left, low) {
    const { pixels, width } = this;
    const [fromX, toX, fromY, toY] = this.within(left, low, side);
    for (let line = fromY; line < toY; line++) {
      let at = 4 * ((low + line) * width + left + fromX);
      for (let from = 4 * (line * side + fromX), end = 4 * (line * side + toX); from < end; from += 4, at += 4) {
        const rest = 1 - pixels[at + 3] / 255;
        pixels[at] += colors[from] * rest + 0.5;
        pixels[at + 1] += colors[from + 1] * rest + 0.5;
        pixels[at + 2] += colors[from + 2] * rest + 0.5;
        pixels[at + 3] += colors[from + 3] * rest + 0.5;
      }
    }
  }

  /* What of a stamp lies on the picture. */
  within(left, low, side) {
    return [Math.max(0, -left), Math.min(side, this.width - left), Math.max(0, -low), Math.min(side, this.height - low)];
  }
}

/* { radius, colorAt }: how a dot looks; `colorAt(dx, dy)` is premultiplied RGBA of 0..1, dx and dy px from its center. */
function dotStamp(size, [red, green, blue, opaque]) {
  const hue = [red, green, blue].map((part) => part / 255);
  return {
    radius: size / 2,
    colorAt: (dx, dy) => covered(hue, (opaque / 255) * unit(size / 2 - Math.hypot(dx, dy))),
  };
}

function strongStamp(value, dim, { base, grow, rimmed, faint, theme }) {
  const strength = smooth(0.05, 0.95, Math.min(1, Math.abs(value) / 127));
  const radius = 0.5 * (base + grow * strength), rim = strength >= rimmed ? 0.85 * Math.min(1, strength * 3) : 0;
  const hue = mix(theme.muted, value < 0 ? theme.away : theme.towards, smooth(0, 0.45, strength));
  return {
    radius: radius + (rim ? 1.5 : 0.5),
    colorAt: (dx, dy) => {
      const d = Math.hypot(dx, dy), dot = unit(radius - d + 0.5);
      const cover = (dim ? 0.22 : 1) * Math.max(dot * (faint + (0.92 - faint) * Math.min(1, strength * 1.5)), rim * unit(radius + 1.5 - d));
      return covered(mix(theme.background, hue, dot), cover);
    },
  };
}

function testStamp([red, green, blue], dim, wrong, { base, crosses, line, plain, faint, theme, soft }) {
  const half = wrong ? crosses : base, wide = wrong ? 1.25 * line : line;
  const pen = plain ? (wrong ? theme.text : soft) : [red, green, blue].map((part) => part / 255);
  return {
    radius: half + 2,
    colorAt: (dx, dy) => {
      const [x, y] = [Math.abs(dx), Math.abs(dy)];
      const d = wrong ? Math.max(Math.abs(x - y) * 0.7071, Math.max(x, y) - half * 0.72) : Math.abs((x + y - half) * 0.7071);
      const stroke = unit(wide / 2 - d + 0.5), halo = wrong ? 0.9 * unit(wide / 2 + line - d + 0.5) : 0;
      return covered(mix(theme.background, pen, stroke), (dim ? 0.3 : 1) * Math.max(stroke * (wrong ? 1 : faint), halo));
    },
  };
}

const unit = (x) => Math.min(1, Math.max(0, x));
const covered = (hue, cover) => (cover < 0.02 ? [0, 0, 0, 0] : [...hue.map((part) => part * cover), cover]);

function smooth(low, high, x) {
  const t = unit((x - low) / (high - low));
  return t * t * (3 - 2 * t);
}

/* The pixels of a stamp whose center lies (x, y) px from the lower left corner of its middle pixel. */
function cut({ radius, colorAt }, x, y) {
  const reach = Math.ceil(radius), side = 2 * reach + 1;
  const colors = new Uint8Array(4 * side * side);
  for (let at = 0; at < side * side; at++) {
    const color = colorAt((at % side) - reach + 0.5 - x, Math.floor(at / side) - reach + 0.5 - y);
    for (let part = 0; part < 4; part++) colors[4 * at + part] = Math.round(255 * color[part]);
  }
  return { reach, side, colors };
}
