// The image and the outlines over it; zoomed by wheel, keys and fingers, moved by dragging.

const [CLOSEST, STEP, MOVE_PX] = [40, 1.25, 60];
const WIDEST_PX = 1.2; // of the image, to a px of the line: else lines would hide small objects seen from afar
const [LINE, HALO] = ["#ffd84d", "rgb(0 0 0 / 60%)"];

/** Draws an image (a canvas) and outlines on a canvas, and lets the user move it. */
export class View {
  #canvas;
  #context;
  #image = null;
  #path = null;
  #scale = 1; // px of the screen to one of the image
  #left = 0; // of the image, in px of the screen
  #top = 0;
  #pointers = new Map();
  #due = false;
  showsOutlines = true;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave"]) {
      canvas.addEventListener(kind, (event) => this.#pointer(event));
    }
  }

  /** Shows an image without outlines, whole. */
  showImage(image) {
    [this.#image, this.#path] = [image, null];
    this.fit();
  }

  /** Lays outlines over the image: for each object rings of [x, y] corners. */
  showOutlines(rings) {
    this.#path = new Path2D();
    for (const ring of rings.flat()) {
      ring.forEach(([x, y], index) => (index ? this.#path.lineTo(x, y) : this.#path.moveTo(x, y)));
      this.#path.closePath();
    }
    this.draw();
  }

  /** Shows the whole image. */
  fit() {
    const { clientWidth, clientHeight } = this.#canvas.parentElement;
    const density = devicePixelRatio;
    [this.#canvas.width, this.#canvas.height] = [clientWidth * density, clientHeight * density].map(Math.round);
    if (!this.#image) return;
    const { width, height } = this.#image;
    this.#scale = Math.min(this.#canvas.width / width, this.#canvas.height / height);
    this.#left = (this.#canvas.width - width * this.#scale) / 2;
    this.#top = (this.#canvas.height - height * this.#scale) / 2;
    this.draw();
  }

  /** Zooms about a point of the canvas, else about its middle. */
  zoom(factor, x = this.#canvas.width / 2, y = this.#canvas.height / 2) {
    if (!this.#image) return;
    const farthest = Math.min(1, this.#canvas.width / this.#image.width, this.#canvas.height / this.#image.height) / 2;
    const scale = Math.min(CLOSEST * devicePixelRatio, Math.max(farthest, this.#scale * factor));
    this.#left = x - ((x - this.#left) * scale) / this.#scale;
    this.#top = y - ((y - this.#top) * scale) / this.#scale;
    this.#scale = scale;
    this.draw();
  }

  closer() {
    this.zoom(STEP);
  }

  farther() {
    this.zoom(1 / STEP);
  }

  /** Draws with the next frame. */
  draw() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#paint();
    });
  }

  #paint() {
    const context = this.#context;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    if (!this.#image) return;
    context.setTransform(this.#scale, 0, 0, this.#scale, this.#left, this.#top);
    context.imageSmoothingEnabled = this.#scale < 2;
    context.drawImage(this.#image, 0, 0);
    if (!this.#path || !this.showsOutlines) return;
    const thin = Math.min(devicePixelRatio / this.#scale, WIDEST_PX);
    context.lineJoin = "round";
    for (const [colour, width] of [[HALO, 3.2], [LINE, 1.4]]) {
      [context.strokeStyle, context.lineWidth] = [colour, width * thin];
      context.stroke(this.#path);
    }
  }

  #place(event) {
    return [event.offsetX * devicePixelRatio, event.offsetY * devicePixelRatio];
  }

  #move(x, y) {
    [this.#left, this.#top] = [this.#left + x, this.#top + y];
    this.draw();
  }

  #wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...this.#place(event));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = MOVE_PX * devicePixelRatio;
    const actions = {
      "+": () => this.closer(),
      "=": () => this.closer(),
      "-": () => this.farther(),
      0: () => this.fit(),
      ArrowLeft: () => this.#move(step, 0),
      ArrowRight: () => this.#move(-step, 0),
      ArrowUp: () => this.#move(0, step),
      ArrowDown: () => this.#move(0, -step),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  #pointer(event) {
    const [x, y] = this.#place(event);
    const before = this.#pointers.get(event.pointerId);
    if (event.type === "pointerdown") {
      this.#canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, [x, y]);
    } else if (event.type === "pointermove") {
      if (before) this.#drag(event.pointerId, before, [x, y]);
    } else this.#pointers.delete(event.pointerId);
  }

  /** Moves with one finger or the mouse; zooms with two fingers. */
  #drag(id, before, now) {
    const other = [...this.#pointers].find(([key]) => key !== id)?.[1];
    this.#pointers.set(id, now);
    if (!other) this.#move(now[0] - before[0], now[1] - before[1]);
    else {
      const apart = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
      this.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
  }
}
