// What the readers of pictures share.

/** Undoes deflate, with the zlib header that PNG and TIFF have, of bytes in several parts. */
export async function inflate(parts) {
  try {
    return await through(new DecompressionStream("deflate"), parts);
  } catch {
    throw new Error("The file is cut short or damaged.");
  }
}

/** Compresses bytes as `inflate` takes them. */
export const deflate = (bytes) => through(new CompressionStream("deflate"), [bytes]);

/**
 * Gives the first samples of each pixel as planes.
 * @param {Float32Array} stored samples of one pixel after the other
 * @param {number} samples to a pixel
 * @param {number} kept of them
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
