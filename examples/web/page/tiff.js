// TIFF of one plane: grey or RGB, in strips or tiles, as it is or compressed without loss. What has more planes or
// channels is refused rather than guessed at.

import { inflate } from "./bytes.js";

const HEADS = { "II*\0": [true, false], "MM\0*": [false, false], "II+\0": [true, true], "MM\0+": [false, true] };
const MOST_PAGES = 10_000;
const BYTES = { 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8 };
const TAG = {
  kind: 254, width: 256, height: 257, bits: 258, compression: 259, colours: 262, description: 270, stripOffsets: 273,
  samples: 277, rowsPerStrip: 278, stripCounts: 279, XResolution: 282, YResolution: 283, planar: 284,
  resolutionUnit: 296, predictor: 317, tileWidth: 322, tileHeight: 323, tileOffsets: 324, tileCounts: 325, extra: 338,
  format: 339,
};
const NUMBERS = {
  "1/8": Uint8Array, "1/16": Uint16Array, "1/32": Uint32Array, "2/8": Int8Array, "2/16": Int16Array, "2/32": Int32Array,
  "3/32": Float32Array, "3/64": Float64Array,
};
const unDeflate = (bytes) => inflate([bytes]);
const DECODERS = { 1: (bytes) => bytes, 5: unLzw, 8: unDeflate, 32946: unDeflate, 32773: unPack };
const [GREY, RGB] = [[0, 1], 2];
const ALPHA = [1, 2];
const [FINEST_UM, COARSEST_UM] = [0.001, 10]; // what is coarser is the resolution of a print
const UM = { µm: 1, μm: 1, um: 1, micron: 1, microns: 1, mm: 1e3, nm: 1e-3, cm: 1e4, m: 1e6, inch: 25400 };
const TAG_UNITS = { 2: "inch", 3: "cm" };

export const isTiff = (bytes) => String.fromCharCode(...bytes.subarray(0, 4)) in HEADS;

/**
 * Reads the first page of a TIFF.
 * @param {Uint8Array} bytes the whole file
 * @param {number} mostPx more pixels are refused before they are decoded
 * @returns {Promise<object>} as `readPng` gives it, and `pixelSizeUm`, `pixelSizeSource` where one is stated
 */
export async function readTiff(bytes, mostPx) {
  try {
    return await firstPage(bytes, mostPx);
  } catch (error) {
    if (error instanceof RangeError) throw new Error("The TIFF is cut short or damaged.");
    throw error;
  }
}

async function firstPage(bytes, mostPx) {
  const [page, ...others] = pagesOf(bytes);
  const [width, height] = [page(TAG.width), page(TAG.height)];
  if (!(width > 0 && height > 0)) throw new Error("The TIFF's first page is damaged.");
  if (width * height > mostPx) return { width, height, planes: [], bits: 0 };
  const description = page(TAG.description) ?? "";
  const samples = page(TAG.samples) ?? 1;
  requireOnePlane(page, others, samples, description);
  const size = pixelSize(page, description);
  const kept = channelsOf(page, samples);
  const bits = page(TAG.bits) ?? 1;
  const planes = await decode(bytes, page, { width, height, samples, kept, bits });
  return { width, height, planes, bits, ...size };
}

/** Gives for each page a function from a tag to its value: a number, a text, or a list where `whole` is given. */
function pagesOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const [little, big] = HEADS[String.fromCharCode(...bytes.subarray(0, 4))];
  const number = (size, at) => {
    if (size === 8) return Number(view.getBigUint64(at, little));
    return size === 4 ? view.getUint32(at, little) : size === 2 ? view.getUint16(at, little) : view.getUint8(at);
  };
  const [offset, entry] = big ? [8, 20] : [4, 12];
  const value = (type, at) => {
    if (type === 5) return [number(4, at), number(4, at + 4)];
    return number(BYTES[type], at);
  };
  const page = (start) => {
    const entries = new Map();
    const count = number(big ? 8 : 2, start);
    const first = start + (big ? 8 : 2);
    for (let at = first; at < first + count * entry; at += entry) entries.set(number(2, at), at);
    const read = (tag, whole = false) => {
      if (!entries.has(tag)) return undefined;
      const at = entries.get(tag);
      const [type, items] = [number(2, at + 2), number(offset, at + 4)];
      const size = BYTES[type] ?? 1;
      const place = size * items <= offset ? at + 4 + offset : number(offset, at + 4 + offset);
      if (place + size * items > bytes.length) throw new RangeError();
      if (type === 2) return new TextDecoder().decode(bytes.subarray(place, place + items)).replace(/\0.*$/s, "");
      const item = (index) => value(type, place + index * size);
      return whole ? Array.from({ length: items }, (_, index) => item(index)) : item(0);
    };
    return [Object.assign(read, { little }), number(offset, first + count * entry)];
  };
  const pages = [];
  for (let next = number(offset, big ? 8 : 4); next && pages.length < MOST_PAGES; ) {
    const [read, following] = page(next);
    pages.push(read);
    next = following;
  }
  if (!pages.length) throw new RangeError();
  return pages;
}

function requireOnePlane(page, others, samples, description) {
  const told = (pattern) => Number(new RegExp(pattern, "m").exec(description)?.[1] ?? 1);
  const same = others.filter((other) => ["width", "height"].every((side) => other(TAG[side]) === page(TAG[side])));
  const ofOme = (told('SizeC="(\\d+)"') / samples) * told('SizeZ="(\\d+)"') * told('SizeT="(\\d+)"');
  if (same.length || told("^images=(\\d+)") > 1 || ofOme > 1) {
    throw new Error(
      "The TIFF holds several channels or planes: save one of them as a separate file. " +
        "`cytoseed segment` takes such files, with --channels.",
    );
  }
}

/** Tells how many samples of a pixel are the image, without alpha. */
function channelsOf(page, samples) {
  const colours = page(TAG.colours) ?? 1;
  const alpha = ALPHA.includes(page(TAG.extra, true)?.at(-1)) && samples > 1 ? 1 : 0;
  if (colours === RGB && (samples === 3 || samples === 4)) return 3;
  if (GREY.includes(colours) && [1, 3].includes(samples - alpha)) return samples - alpha;
  throw new Error("The TIFF uses a palette, YCbCr or an unsupported number of channels: save it as grey or RGB.");
}

async function decode(bytes, page, { width, height, samples, kept, bits }) {
  const Numbers = NUMBERS[`${page(TAG.format) ?? 1}/${bits}`];
  const unpack = DECODERS[page(TAG.compression) ?? 1];
  if (!Numbers) throw new Error("The TIFF's values do not have 8, 16 or 32 bits: save it with 8 or 16.");
  if (!unpack) throw new Error("The TIFF uses a compression that the page does not support: save it with Deflate.");
  const isTiled = page(TAG.tileWidth) !== undefined;
  const across = isTiled ? page(TAG.tileWidth) : width;
  const down = isTiled ? page(TAG.tileHeight) : Math.min(height, page(TAG.rowsPerStrip) ?? height);
  const offsets = page(isTiled ? TAG.tileOffsets : TAG.stripOffsets, true) ?? [];
  const counts = page(isTiled ? TAG.tileCounts : TAG.stripCounts, true) ?? [];
  const isPlanar = page(TAG.planar) === 2 && samples > 1;
  const [columns, rows, together] = [Math.ceil(width / across), Math.ceil(height / down), isPlanar ? 1 : samples];
  const planes = Array.from({ length: kept }, () => new Float32Array(width * height));
  for (let block = 0; block < columns * rows * (isPlanar ? kept : 1); block++) {
    const [left, top] = [(block % columns) * across, (Math.floor(block / columns) % rows) * down];
    const lines = isTiled ? down : Math.min(down, height - top);
    const needed = across * lines * together * Numbers.BYTES_PER_ELEMENT;
    const end = offsets[block] + counts[block];
    if (!(end <= bytes.length)) throw new RangeError();
    const raw = await unpack(bytes.subarray(offsets[block], end), needed);
    if (raw.length < needed) throw new RangeError();
    const values = valuesOf(raw.slice(0, needed), Numbers, page, across * together, together);
    const targets = isPlanar ? [planes[Math.floor(block / (columns * rows))]] : planes;
    targets.forEach((plane, sample) => {
      for (let y = 0; y < lines && top + y < height; y++) {
        for (let x = 0; x < across && left + x < width; x++) {
          plane[(top + y) * width + left + x] = values[(y * across + x) * together + sample];
        }
      }
    });
  }
  return planes;
}

/** Gives the numbers of a block whose lines hold `length` of them; undoes the prediction from the one before. */
function valuesOf(raw, Numbers, page, length, step) {
  const size = Numbers.BYTES_PER_ELEMENT;
  const predictor = page(TAG.predictor) ?? 1;
  if (predictor === 3) return unFloat(raw, Numbers, length, step);
  if (!page.little) swap(raw, size);
  const values = new Numbers(raw.buffer);
  if (predictor === 2) {
    for (let line = 0; line < values.length; line += length) {
      for (let index = step; index < length; index++) values[line + index] += values[line + index - step];
    }
  }
  return values;
}

/** Undoes the prediction of real numbers: the bytes of a line, highest first, are differences. */
function unFloat(raw, Numbers, length, step) {
  const size = Numbers.BYTES_PER_ELEMENT;
  const ordered = new Uint8Array(raw.length);
  for (let line = 0; line < raw.length; line += length * size) {
    for (let index = step; index < length * size; index++) raw[line + index] += raw[line + index - step];
    for (let index = 0; index < length; index++) {
      for (let byte = 0; byte < size; byte++) {
        ordered[line + index * size + size - 1 - byte] = raw[line + byte * length + index];
      }
    }
  }
  return new Numbers(ordered.buffer);
}

function swap(bytes, size) {
  for (let at = 0; size > 1 && at < bytes.length; at += size) bytes.subarray(at, at + size).reverse();
}

/** Undoes LZW as TIFF has it: codes of 9 to 12 bits, highest bit first, longer one code early. */
function unLzw(bytes, needed) {
  const [CLEAR, END] = [256, 257];
  const result = new Uint8Array(needed);
  const [prefix, last, length] = [new Uint16Array(4097), new Uint8Array(4097), new Uint32Array(4097).fill(1)];
  for (let code = 0; code < CLEAR; code++) last[code] = code;
  let [known, width, before, filled, bits, held] = [258, 9, -1, 0, 0, 0];
  for (let at = 0; filled < needed; ) {
    while (bits < width && at < bytes.length) [held, bits] = [((held << 8) | bytes[at++]) & 0xffffff, bits + 8];
    if (bits < width) break;
    const code = (held >> (bits - width)) & ((1 << width) - 1);
    bits -= width;
    if (code === END) break;
    if (code === CLEAR) [known, width, before] = [258, 9, -1];
    else {
      if (code > known || (code === known && before < 0)) throw new RangeError();
      const isNew = code === known; // what it stands for is defined by itself: the one before, and its first byte
      const span = length[isNew ? before : code] + (isNew ? 1 : 0);
      let end = filled + span - 1;
      for (let link = isNew ? before : code, to = isNew ? end - 1 : end; to >= filled; to--, link = prefix[link]) {
        if (to < needed) result[to] = last[link];
      }
      if (isNew && end < needed) result[end] = result[filled];
      if (before >= 0 && known < 4096) {
        [prefix[known], last[known], length[known]] = [before, result[filled], length[before] + 1];
        known++;
      }
      [filled, before] = [end + 1, code];
      if (known + 1 >= 1 << width && width < 12) width++;
    }
  }
  return filled < needed ? result.subarray(0, filled) : result;
}

/** Undoes PackBits: runs of equal bytes, and bytes as they are. */
function unPack(bytes, needed) {
  const result = new Uint8Array(needed);
  let filled = 0;
  for (let at = 0; at < bytes.length && filled < needed; ) {
    const head = (bytes[at++] << 24) >> 24;
    if (head >= 0) {
      result.set(bytes.subarray(at, at + Math.min(head + 1, needed - filled)), filled);
      [filled, at] = [filled + head + 1, at + head + 1];
    } else if (head > -128) {
      result.fill(bytes[at++], filled, (filled += 1 - head));
    }
  }
  return result.subarray(0, filled);
}

/** Finds the pixel size that OME metadata, ImageJ's or the resolution tags state, in µm. */
function pixelSize(page, description) {
  const ofImageJ = /^unit=(.*)$/m.exec(description)?.[1].replace("\\u00B5", "µ");
  const ofTags = TAG_UNITS[page(TAG.resolutionUnit)];
  const statements = {
    "OME metadata": [omeLength(description, "Y", "X"), omeLength(description, "X", "Y")],
    "ImageJ metadata": ["Y", "X"].map((axis) => resolution(page, axis, ofImageJ)),
    "TIFF resolution tags": ["Y", "X"].map((axis) => resolution(page, axis, ofTags)),
  };
  for (const [pixelSizeSource, [down, across]] of Object.entries(statements)) {
    if (![down, across].every((side) => side >= FINEST_UM && side <= COARSEST_UM)) continue;
    if (Math.max(down, across) > 1.01 * Math.min(down, across)) {
      throw new Error(`The pixels are not square, ${down} by ${across} µm: resample the image.`);
    }
    return { pixelSizeUm: (down + across) / 2, pixelSizeSource };
  }
  return {};
}

/** Reads the size of a pixel along an axis; where it is not stated, that along the other. */
function omeLength(description, axis, other) {
  const pixels = /<(?:\w+:)?Pixels\b[^>]*>/.exec(description)?.[0] ?? "";
  const read = (name) => new RegExp(`\\b${name}="([^"]*)"`).exec(pixels)?.[1];
  const length = (along) => Number(read(`PhysicalSize${along}`)) * UM[read(`PhysicalSize${along}Unit`) ?? "µm"];
  return length(axis) || length(other);
}

function resolution(page, axis, unit) {
  const [pixels, units] = page(TAG[`${axis}Resolution`]) ?? [NaN, NaN];
  return ((UM[unit] ?? NaN) * units) / pixels;
}
