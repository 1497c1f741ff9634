// To the model's pixel size and back: the same weights and pixel centres as src/cytoseed/core/scale.py.

const SAME_SCALE = 0.01; // factors this near to 1 would only blur the image
const [SMALLEST, LARGEST] = [1 / 256, 16];
const NOMINAL_DIAMETER_UM = 8.5;

/**
 * Computes the size at which the model processes an image.
 * @param {{width: number, height: number, pixelSizeUm?: number}} picture
 * @param {{pixelSizeUm?: number, diameterPx?: number}} entered by the user; takes precedence over the file
 * @param {number} modelUm the model's pixel size
 * @returns {{width: number, height: number, factor: number}}
 */
export function seenSize(picture, stated, modelUm) {
  const um = stated.pixelSizeUm ?? picture.pixelSizeUm;
  let factor = 1;
  if (stated.diameterPx) factor = NOMINAL_DIAMETER_UM / modelUm / stated.diameterPx;
  else if (um) factor = um / modelUm;
  if (Math.abs(factor - 1) <= SAME_SCALE) factor = 1;
  if (!(factor >= SMALLEST && factor <= LARGEST)) {
    throw new Error("The image would become absurdly large or small: check the pixel size or the diameter.");
  }
  const scaled = (side) => Math.max(1, roundHalfEven(side * factor));
  return { width: scaled(picture.width), height: scaled(picture.height), factor };
}

/**
 * Resamples a plane, bilinear, with anti-aliasing where it shrinks.
 * @param {Float32Array} plane (H,W)
 * @param {{width: number, height: number}} from
 * @param {{width: number, height: number}} to
 * @returns {Float32Array} (H,W) of the new size
 */
export function rescale(plane, from, to) {
  if (from.width === to.width && from.height === to.height) return plane;
  const rows = taps(from.height, to.height);
  const columns = taps(from.width, to.width);
  const result = new Float32Array(to.width * to.height);
  const line = new Float32Array(from.width);
  for (let y = 0; y < to.height; y++) {
    line.fill(0);
    rows[y].weights.forEach((weight, tap) => {
      const start = (rows[y].first + tap) * from.width;
      for (let x = 0; x < from.width; x++) line[x] += weight * plane[start + x];
    });
    for (let x = 0; x < to.width; x++) {
      const { first, weights } = columns[x];
      let sum = 0;
      for (let tap = 0; tap < weights.length; tap++) sum += weights[tap] * line[first + tap];
      result[y * to.width + x] = sum;
    }
  }
  return result;
}

/**
 * Brings labels to the size of the image: each pixel takes the label at its centre.
 * @param {Int32Array} labels (H,W)
 * @returns {Int32Array} (H,W) of the new size
 */
export function rescaleLabels(labels, from, to) {
  if (from.width === to.width && from.height === to.height) return labels;
  const result = new Int32Array(to.width * to.height);
  const columns = Array.from({ length: to.width }, (_, x) => nearest(x, from.width, to.width));
  for (let y = 0; y < to.height; y++) {
    const start = nearest(y, from.height, to.height) * from.width;
    for (let x = 0; x < to.width; x++) result[y * to.width + x] = labels[start + columns[x]];
  }
  return result;
}

const nearest = (place, small, full) => Math.floor(((2 * place + 1) * small) / (2 * full));

/** Source lines and weights of each output line: a triangle around its centre. */
function taps(source, count) {
  const step = source / count;
  const reach = Math.max(1, step);
  return Array.from({ length: count }, (_, index) => {
    const centre = Math.min((index + 0.5) * step, source);
    const first = Math.max(0, Math.floor(centre - reach + 0.5));
    const end = Math.min(source, Math.floor(centre + reach + 0.5));
    const raw = Array.from({ length: end - first }, (_, tap) =>
      Math.max(0, 1 - Math.abs((first + tap + 0.5 - centre) / reach)),
    );
    const total = raw.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: Float32Array.from(raw, (weight) => weight / total) };
  });
}

/** Rounds as Python does: halves to the even side. */
export function roundHalfEven(value) {
  const rounded = Math.round(value);
  return value % 1 === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
