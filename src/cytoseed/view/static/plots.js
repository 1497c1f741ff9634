// Histogram and scatter plot; dragging over them chooses a range.

import { spread } from "./objects.js";

const INK = () => getComputedStyle(document.body).color;

export function drawHistogram(canvas, values, shown) {
  const context = canvas.getContext("2d");
  const [low, high] = spread(values);
  const bins = new Array(canvas.width / 4).fill(0);
  for (let place = 0; place < values.length; place++) {
    const bin = Math.floor(((values[place] - low) / (high - low)) * bins.length);
    if (bin >= 0 && bin < bins.length && shown[place + 1]) bins[bin]++;
  }
  const most = Math.max(1, ...bins);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = INK();
  bins.forEach((count, bin) => context.fillRect(bin * 4, canvas.height * (1 - count / most), 3, canvas.height));
  return [low, high];
}

export function drawScatter(canvas, xs, ys, shown) {
  const context = canvas.getContext("2d");
  const [[lowX, highX], [lowY, highY]] = [spread(xs), spread(ys)];
  const { width, height } = canvas;
  const counts = new Uint32Array(width * height);
  let most = 1;
  for (let place = 0; place < xs.length; place++) {
    const x = Math.floor(((xs[place] - lowX) / (highX - lowX)) * width);
    const y = Math.floor((1 - (ys[place] - lowY) / (highY - lowY)) * height);
    if (shown[place + 1] && x >= 0 && x < width && y >= 0 && y < height) most = Math.max(most, ++counts[y * width + x]);
  }
  context.clearRect(0, 0, width, height);
  context.fillStyle = INK();
  for (let at = 0; at < counts.length; at++) {
    if (!counts[at]) continue;
    context.globalAlpha = 0.35 + 0.65 * Math.log1p(counts[at]) / Math.log1p(most);
    context.fillRect((at % width) - 0.5, Math.floor(at / width) - 0.5, 2, 2);
  }
  context.globalAlpha = 1;
  return { x: [lowX, highX], y: [lowY, highY] };
}

// Calls `done` with the corners of a dragged box, in shares of the canvas from the lower left.
export function onDrag(canvas, done) {
  let start = null;
  const share = (event) => {
    const box = canvas.getBoundingClientRect();
    return [Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)), 1 - Math.min(1, Math.max(0, (event.clientY - box.top) / box.height))];
  };
  canvas.addEventListener("pointerdown", (event) => { start = share(event); canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", (event) => {
    if (!start) return;
    const end = share(event);
    const [x, y] = [0, 1].map((axis) => [Math.min(start[axis], end[axis]), Math.max(start[axis], end[axis])]);
    start = null;
    if (x[1] - x[0] > 0.01) done(x, y);
  });
}
