// PNG with its stored values. A canvas would return 8 bits in screen colours, and some browsers add noise to them.

import { deflate, inflate, separate } from "./bytes.js";

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const SAMPLES = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 }; // by colour type; the last of 2 and of 4 is alpha
const DEPTHS = { 0: [1, 2, 4, 8, 16], 2: [8, 16], 3: [1, 2, 4, 8], 4: [8, 16], 6: [8, 16] };
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

export const isPng = (bytes) => SIGNATURE.every((value, index) => bytes[index] === value);

/**
 * Reads a PNG of any kind.
 * @param {Uint8Array} bytes the whole file
 * @param {number} mostPx images with more pixels are not decoded
 * @returns {Promise<{width: number, height: number, planes: Float32Array[], bits: number}>} one plane (H,W) if it is
 *   grey, otherwise three, without alpha; none if not decoded
 */
export async function readPng(bytes, mostPx) {
  const { header, palette, data } = chunksOf(bytes);
  const [width, height] = [header.getUint32(0), header.getUint32(4)];
  const [bits, colour, interlaced] = [header.getUint8(8), header.getUint8(9), header.getUint8(12) === 1];
  if (!width || !height || !DEPTHS[colour]?.includes(bits)) throw new Error("The PNG's header is damaged.");
  if (width * height > mostPx) return { width, height, planes: [], bits: 0 };
  const lines = await inflate(data);
  const samples = SAMPLES[colour];
  const stored = new Float32Array(width * height * samples);
  let start = 0;
  for (const [x, y, dx, dy] of interlaced ? PASSES : [[0, 0, 1, 1]]) {
    const [columns, rows] = [Math.ceil((width - x) / dx), Math.ceil((height - y) / dy)];
    if (columns < 1 || rows < 1) continue;
    const length = Math.ceil((columns * samples * bits) / 8);
    if (start + rows * (length + 1) > lines.length) throw new Error("The PNG is cut short.");
    unfilter(lines, start, rows, length, Math.max(1, (samples * bits) / 8));
    for (let row = 0; row < rows; row++) {
      const line = lines.subarray(start + row * (length + 1) + 1, start + (row + 1) * (length + 1));
      const place = ((y + row * dy) * width + x) * samples;
      unpack(line, bits, columns, samples, stored, place, dx * samples);
    }
    start += rows * (length + 1);
  }
  const planes = colour === 3 ? coloured(stored, palette) : separate(stored, samples, samples < 3 ? 1 : 3);
  return { width, height, planes, bits: colour === 3 ? 8 : bits };
}

/**
 * Writes a 16-bit grey PNG.
 * @param {Int32Array} values (H,W), from 0 to 65535
 * @returns {Promise<Blob>}
 */
export async function writePng(values, width, height) {
  const lines = new Uint8Array(height * (2 * width + 1)); // each line begins with its filter: none
  for (let row = 0, at = 0; row < height; row++) {
    at++;
    for (let column = 0; column < width; column++) {
      const value = values[row * width + column];
      lines[at++] = value >> 8;
      lines[at++] = value;
    }
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 16);
  const packed = await deflate(lines);
  const parts = [chunk("IHDR", new Uint8Array(header.buffer)), chunk("IDAT", packed), chunk("IEND", new Uint8Array())];
  return new Blob([new Uint8Array(SIGNATURE), ...parts], { type: "image/png" });
}

function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const data = [];
  let header, palette;
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (name === "IHDR" && length === 13) header = new DataView(content.slice().buffer);
    if (name === "PLTE") palette = content;
    if (name === "IDAT") data.push(content);
    if (name === "IEND") break;
    at += length + 12;
  }
  if (header?.byteLength !== 13 || !data.length) throw new Error("The PNG is cut short.");
  return { header, palette, data };
}

/** Undoes the filters of lines in place; a line is a byte for its filter and `length` bytes. */
function unfilter(lines, start, rows, length, step) {
  for (let row = 0; row < rows; row++) {
    const at = start + row * (length + 1) + 1;
    const filter = lines[at - 1];
    const above = row ? at - length - 1 : -1;
    for (let index = 0; index < length; index++) {
      const left = index < step ? 0 : lines[at + index - step];
      const up = above < 0 ? 0 : lines[above + index];
      const corner = above < 0 || index < step ? 0 : lines[above + index - step];
      lines[at + index] += predicted(filter, left, up, corner);
    }
  }
}

function predicted(filter, left, up, corner) {
  if (filter === 0) return 0;
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  const byLeft = Math.abs(up - corner);
  const byUp = Math.abs(left - corner);
  const byCorner = Math.abs(left + up - 2 * corner);
  if (byLeft <= byUp && byLeft <= byCorner) return left;
  return byUp <= byCorner ? up : corner;
}

/** Spreads the samples of a line over `stored`, pixels `step` apart. */
function unpack(line, bits, columns, samples, stored, place, step) {
  const mask = 2 ** bits - 1;
  for (let column = 0, index = 0; column < columns; column++) {
    for (let sample = 0; sample < samples; sample++, index++) {
      const bit = index * bits;
      const value =
        bits === 16 ? (line[2 * index] << 8) | line[2 * index + 1] : (line[bit >> 3] >> (8 - bits - (bit & 7))) & mask;
      stored[place + column * step + sample] = value;
    }
  }
}

function coloured(numbers, palette) {
  if (!palette) throw new Error("The PNG's palette is missing.");
  return [0, 1, 2].map((part) => numbers.map((number) => palette[3 * number + part] ?? 0));
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) remainder = remainder & 1 ? 0xedb88320 ^ (remainder >>> 1) : remainder >>> 1;
  return remainder;
});

function chunk(name, content) {
  const whole = new Uint8Array(content.length + 12);
  const view = new DataView(whole.buffer);
  view.setUint32(0, content.length);
  for (let index = 0; index < 4; index++) whole[4 + index] = name.charCodeAt(index);
  whole.set(content, 8);
  let crc = 0xffffffff;
  for (let index = 4; index < whole.length - 4; index++) crc = CRC[(crc ^ whole[index]) & 255] ^ (crc >>> 8);
  view.setUint32(whole.length - 4, ~crc);
  return whole;
}
