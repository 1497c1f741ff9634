// Measurements and outlines of objects from their labels, and files of both.

/**
 * Keeps the largest piece of each object (neighbours are the four nearest pixels) and numbers objects from 1.
 * @param {Int32Array} labels (H,W), 0 is background; changed in place
 * @returns {number} number of objects
 */
export function wholeObjects(labels, width, height) {
  const pieces = new Int32Array(labels.length); // number of each pixel's piece, from 1
  const [label, area, stack] = [[0], [0], []];
  for (let start = 0; start < labels.length; start++) {
    if (!labels[start] || pieces[start]) continue;
    const own = label.push(labels[start]) - 1;
    area.push(0);
    pieces[start] = own;
    stack.push(start);
    while (stack.length) {
      const at = stack.pop();
      area[own]++;
      const x = at % width;
      for (const next of [x ? at - 1 : -1, x < width - 1 ? at + 1 : -1, at - width, at + width]) {
        if (next >= 0 && next < labels.length && !pieces[next] && labels[next] === label[own]) {
          pieces[next] = own;
          stack.push(next);
        }
      }
    }
  }
  const largest = new Map();
  for (let piece = 1; piece < label.length; piece++) {
    const before = largest.get(label[piece]);
    if (!before || area[piece] > area[before]) largest.set(label[piece], piece);
  }
  const kept = new Int32Array(label.length);
  [...largest.keys()].sort((one, other) => one - other).forEach((key, index) => (kept[largest.get(key)] = index + 1));
  for (let at = 0; at < labels.length; at++) labels[at] = kept[pieces[at]];
  return largest.size;
}

/**
 * Measures objects; the centre of the first pixel is at x = 0.5, y = 0.5, as in QuPath.
 * @returns {{id: number, x: number, y: number, area: number}[]} centroid and area in px, by id
 */
export function measure(labels, width, count) {
  const rows = Array.from({ length: count }, (_, index) => ({ id: index + 1, x: 0, y: 0, area: 0 }));
  labels.forEach((label, at) => {
    if (!label) return;
    const row = rows[label - 1];
    row.area++;
    row.x += at % width;
    row.y += Math.floor(at / width);
  });
  for (const row of rows) [row.x, row.y] = [row.x / row.area + 0.5, row.y / row.area + 0.5];
  return rows;
}

/**
 * Outlines objects along the edges of their pixels, so that filling the outlines restores the labels.
 * @returns {number[][][][]} for each object, by id, its rings of [x, y] corners, closed; holes run the other way
 */
export function outlines(labels, width, height, count) {
  const rings = Array.from({ length: count }, () => []);
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : labels[y * width + x]);
  const seen = new Uint8Array(labels.length); // pixels whose upper edge is in a ring already
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const label = labels[y * width + x];
      if (label && at(x, y - 1) !== label && !seen[y * width + x]) {
        rings[label - 1].push(traced(at, label, x, y, (px, py) => (seen[py * width + px] = 1)));
      }
    }
  }
  return rings;
}

/** Follows an edge with the object on the right, from the upper left corner of pixel (x, y) back to it. */
function traced(at, label, startX, startY, see) {
  const ring = [];
  let [x, y, dx, dy] = [startX, startY, 1, 0];
  do {
    if (dx === 1) see(x, y);
    [x, y] = [x + dx, y + dy];
    // the two pixels ahead, which meet at this corner: it lies at (x, y), the pixel right below it is (x, y) too
    const left = at(x + (dx + dy - 1) / 2, y + (dy - dx - 1) / 2) === label;
    const right = at(x + (dx - dy - 1) / 2, y + (dy + dx - 1) / 2) === label;
    if (left) [dx, dy] = [dy, -dx];
    else if (!right) [dx, dy] = [-dy, dx];
    if (left || !right) ring.push([x, y]);
  } while (x !== startX || y !== startY || dx !== 1);
  return [ring.at(-1), ...ring];
}

/** Writes measurements as CSV with the columns of `cytoseed segment`. */
export function toCsv(rows, pixelSizeUm) {
  const um = pixelSizeUm;
  const names = ["id", "centroid_x_px", "centroid_y_px", "area_px"];
  if (um) names.push("centroid_x_um", "centroid_y_um", "area_um2");
  const lines = rows.map(({ id, x, y, area }) => [id, x, y, area, ...(um ? [x * um, y * um, area * um * um] : [])]);
  return [names, ...lines].map((line) => `${line.join(",")}\n`).join("");
}

/** Writes outlines as the GeoJSON that QuPath reads: detections, in pixels of the image. */
export function toGeoJson(rows, rings) {
  const features = rows.map(({ id, area }, index) => ({
    type: "Feature",
    id: uuid(),
    geometry: { type: "Polygon", coordinates: rings[index] },
    properties: { objectType: "detection", measurements: { label: id, area_px: area } },
  }));
  const lines = features.map((feature) => JSON.stringify(feature)).join(",\n");
  return `{"type":"FeatureCollection","features":[\n${lines}\n]}\n`;
}

/** Makes a random UUID; crypto.randomUUID needs https. */
function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}
