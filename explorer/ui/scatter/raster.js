/* How is a dense map drawn where there is no graphics card?
 *
 * A browser that draws in software takes a microsecond and more for each point; squares of a few px written straight into an
 * image take a fiftieth of that. The same pixels as the squares of shaders.js, blended in the same order.
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
}
