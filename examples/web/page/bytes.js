// Functions that the readers of images share.

/** Decompresses zlib data in several parts, as in PNG and TIFF. */
export async function inflate(parts) {
  try {
    return await through(new DecompressionStream("deflate"), parts);
  } catch {
    throw new Error("The file is cut short or damaged.");
  }
}

/** Compresses bytes for `inflate`. */
export const deflate = (bytes) => through(new CompressionStream("deflate"), [bytes]);

/**
 * Splits the first samples of each pixel into planes.
 * @param {Float32Array} stored samples of one pixel after the other
 * @param {number} samples per pixel
 * @param {number} number of samples to keep
 * @returns {Float32Array[]}
 */
export function separate(stored, samples, kept) {
  if (samples === 1) return [stored];
  return Array.from({ length: kept }, (_, plane) => {
    const values = new Float32Array(stored.length / samples);
    for (let index = 0, at = plane; index < values.length; index++, at += samples) values[index] = stored[at];
    return values;
  });
}

async function through(stream, parts) {
  return new Uint8Array(await new Response(new Blob(parts).stream().pipeThrough(stream)).arrayBuffer());
}
