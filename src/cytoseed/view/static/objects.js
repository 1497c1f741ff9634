// Objects of a result: measurements by id, filters, colours, and the canvas that shows their labels over the image.

const RAMP = [[60, 110, 255], [0, 210, 230], [80, 230, 80], [255, 220, 0], [255, 60, 40]]; // bright on dark nuclei
const PLAIN = [0, 230, 80];
const CHOSEN = [255, 255, 0];
const KEPT_TILES = 200;
const LINES_BELOW = 0.34; // image pixels per screen pixel from which outlines are lines instead of pixels

export class Objects {
  constructor(base, view, onChange) {
    Object.assign(this, { base, view, onChange, count: view.count, columns: new Map(), filters: [], inside: null, chosen: 0, colourBy: "" });
    this.shown = null; // Uint8Array: 1 for the ids that pass every filter
    this.update();
  }

  async column(name) {
    if (!this.columns.has(name)) {
      const answer = await fetch(`${this.base}/column/${encodeURIComponent(name)}`);
      if (!answer.ok) throw new Error(`no measurement ${name}`);
      this.columns.set(name, new Float32Array(await answer.arrayBuffer()));
    }
    return this.columns.get(name);
  }

  // Colours of all ids as RGBA in one Uint32Array; hidden ids are 0.
  update() {
    const { count, filters, inside } = this;
    const shown = new Uint8Array(count + 1).fill(1);
    shown[0] = 0;
    for (const { values, low, high } of filters)
      for (let id = 1; id <= count; id++) if (!(values[id - 1] >= low && values[id - 1] <= high)) shown[id] = 0;
    if (inside) for (let id = 1; id <= count; id++) if (!inside[id]) shown[id] = 0;
    const colours = new Uint32Array(count + 1);
    const bytes = new Uint8Array(colours.buffer);
    const values = this.columns.get(this.colourBy);
    [this.low, this.high] = values ? spread(values) : [0, 1];
    for (let id = 1; id <= count; id++) {
      if (!shown[id]) continue;
      const [red, green, blue] = id === this.chosen ? CHOSEN : values ? ramp((values[id - 1] - this.low) / (this.high - this.low)) : PLAIN;
      bytes.set([red, green, blue, 255], 4 * id);
    }
    Object.assign(this, { shown, colours, generation: (this.generation ?? 0) + 1 });
    this.onChange();
  }

  numberShown() {
    let sum = 0;
    for (const one of this.shown) sum += one;
    return sum;
  }
}

// Percentiles 1 and 99 of finite values, of at most 100,000 of them.
export function spread(values) {
  const step = Math.max(1, Math.floor(values.length / 100000));
  const some = [];
  for (let place = 0; place < values.length; place += step) if (Number.isFinite(values[place])) some.push(values[place]);
  if (!some.length) return [0, 1];
  some.sort((a, b) => a - b);
  const low = some[Math.floor(0.01 * (some.length - 1))];
  const high = some[Math.ceil(0.99 * (some.length - 1))];
  return high > low ? [low, high] : [low, low + 1];
}

function ramp(share) {
  if (!Number.isFinite(share)) return [128, 128, 128];
  const place = Math.min(0.9999, Math.max(0, share)) * (RAMP.length - 1);
  const [from, to] = [RAMP[Math.floor(place)], RAMP[Math.floor(place) + 1]];
  return from.map((value, index) => Math.round(value + (to[index] - value) * (place % 1)));
}

// A canvas over the viewer with the label tiles of the zoom in view.
export class Overlay {
  constructor(viewer, view, base) {
    Object.assign(this, { viewer, view, base, tiles: new Map(), target: 0, outlines: true, filled: false, objects: null });
    this.canvas = document.createElement("canvas");
    Object.assign(this.canvas.style, { position: "absolute", inset: 0, width: "100%", height: "100%", pointerEvents: "none" });
    viewer.canvas.append(this.canvas);
    viewer.addHandler("update-viewport", () => this.draw());
    viewer.addHandler("resize", () => this.draw());
    this.maxZoom = Math.max(0, Math.ceil(Math.log2(Math.max(view.width, view.height) / view.tile)));
  }

  // Pixels of the image per pixel of the screen, and the pixel at the upper left corner.
  place() {
    const image = this.viewer.world.getItemAt(0);
    if (!image) return null;
    const bounds = this.viewer.viewport.getBounds(true);
    const { x, y } = image.viewportToImageCoordinates(bounds.x, bounds.y);
    const right = image.viewportToImageCoordinates(bounds.x + bounds.width, bounds.y).x;
    return { left: x, top: y, scale: (right - x) / this.viewer.canvas.clientWidth };
  }

  zoomFor(scale) {
    return Math.min(this.maxZoom, Math.max(0, Math.floor(Math.log2(scale * 1.5))));
  }

  draw() {
    const { canvas, objects, view } = this;
    const [width, height] = [this.viewer.canvas.clientWidth, this.viewer.canvas.clientHeight];
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const place = objects && (this.outlines || this.filled) ? this.place() : null;
    if (!place) return;
    const zoom = this.zoomFor(place.scale);
    const side = view.tile * 2 ** zoom;
    const last = (start, extent, size) => Math.min(Math.floor((start + extent) / side), Math.ceil(size / side) - 1);
    context.imageSmoothingEnabled = zoom > 0;
    for (let row = Math.max(0, Math.floor(place.top / side)); row <= last(place.top, height * place.scale, view.height); row++)
      for (let column = Math.max(0, Math.floor(place.left / side)); column <= last(place.left, width * place.scale, view.width); column++) {
        const tile = this.tile(zoom, column, row);
        if (!tile.labels) continue;
        if (this.outlines && place.scale < LINES_BELOW) {
          this.drawLines(context, tile, [column * side, row * side], place, ratio);
          if (!this.filled) continue;
        }
        const painted = this.paint(tile, zoom);
        const scale = (2 ** zoom / place.scale) * ratio;
        context.drawImage(painted, ((column * side - place.left) / place.scale) * ratio, ((row * side - place.top) / place.scale) * ratio,
          painted.width * scale, painted.height * scale);
      }
  }

  // Outlines in view as lines along the edges of pixels.
  drawLines(context, { labels, width }, [left, top], place, ratio) {
    const { colours } = this.objects;
    const height = labels.length / width;
    const clip = (value, most) => Math.min(most, Math.max(0, value));
    const [firstX, firstY] = [clip(Math.floor(place.left - left), width), clip(Math.floor(place.top - top), height)];
    const lastX = clip(Math.ceil(place.left - left + this.viewer.canvas.clientWidth * place.scale), width);
    const lastY = clip(Math.ceil(place.top - top + this.viewer.canvas.clientHeight * place.scale), height);
    const paths = new Map();
    for (let y = firstY; y < lastY; y++)
      for (let x = firstX; x < lastX; x++) {
        const at = y * width + x;
        const id = labels[at];
        if (!id || !colours[id]) continue;
        let path = paths.get(colours[id]);
        if (!path) paths.set(colours[id], (path = new Path2D()));
        const line = (x1, y1, x2, y2) => { path.moveTo(x1, y1); path.lineTo(x2, y2); };
        if (x > 0 && labels[at - 1] !== id) line(x, y, x, y + 1);
        if (x + 1 < width && labels[at + 1] !== id) line(x + 1, y, x + 1, y + 1);
        if (y > 0 && labels[at - width] !== id) line(x, y, x + 1, y);
        if (y + 1 < height && labels[at + width] !== id) line(x, y + 1, x + 1, y + 1);
      }
    const scale = ratio / place.scale;
    context.setTransform(scale, 0, 0, scale, (left - place.left) * scale, (top - place.top) * scale);
    context.lineWidth = (2 * ratio) / scale;
    for (const [colour, path] of paths) {
      context.strokeStyle = `rgb(${colour & 255}, ${(colour >> 8) & 255}, ${(colour >> 16) & 255})`;
      context.stroke(path);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  tile(zoom, column, row) {
    const key = `${this.target}/${zoom}/${column}/${row}`;
    let tile = this.tiles.get(key);
    if (tile) this.tiles.delete(key); // moves it to the end: the oldest is dropped first
    else {
      tile = {};
      fetch(`${this.base}/labels/${key}`).then(async (answer) => {
        if (!answer.ok) return;
        tile.width = Number(answer.headers.get("X-Width"));
        tile.labels = new Uint32Array(await answer.arrayBuffer());
        this.draw();
      });
    }
    this.tiles.set(key, tile);
    while (this.tiles.size > KEPT_TILES) this.tiles.delete(this.tiles.keys().next().value);
    return tile;
  }

  // The tile in the colours of its objects: outlines near, all pixels far out, where outlines would be lost.
  paint(tile, zoom) {
    const outlines = this.outlines && this.place().scale >= LINES_BELOW;
    const style = `${this.objects.generation} ${outlines} ${this.filled}`;
    if (tile.style === style) return tile.painted;
    const { labels, width } = tile;
    const height = labels.length / width;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const { colours } = this.objects;
    const inner = this.filled ? 0x60ffffff : zoom >= 2 ? 0xc0ffffff : 0x00ffffff;
    for (let y = 0, at = 0; y < height; y++)
      for (let x = 0; x < width; x++, at++) {
        const id = labels[at];
        if (!id || !colours[id]) continue;
        const isBorder = outlines && ((x > 0 && labels[at - 1] !== id) || (x + 1 < width && labels[at + 1] !== id) ||
          (y > 0 && labels[at - width] !== id) || (y + 1 < height && labels[at + width] !== id));
        pixels[at] = isBorder ? colours[id] : colours[id] & inner;
        if (!isBorder && inner === 0x00ffffff) pixels[at] = 0;
      }
    tile.painted ??= new OffscreenCanvas(width, height);
    tile.painted.getContext("2d").putImageData(image, 0, 0);
    tile.style = style;
    return tile.painted;
  }

  // Id at a pixel of the image, from the tiles in view; 0 for none.
  idAt(x, y) {
    const place = this.place();
    const zoom = this.zoomFor(place.scale);
    const side = this.view.tile * 2 ** zoom;
    const [column, row] = [Math.floor(x / side), Math.floor(y / side)];
    const tile = this.tiles.get(`${this.target}/${zoom}/${column}/${row}`);
    if (!tile?.labels || x < 0 || y < 0) return 0;
    const [inX, inY] = [Math.floor((x - column * side) / 2 ** zoom), Math.floor((y - row * side) / 2 ** zoom)];
    return inX < tile.width ? tile.labels[inY * tile.width + inX] ?? 0 : 0;
  }
}
