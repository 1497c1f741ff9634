// Reading of image files.

import { separate } from "./bytes.js";
import { isPng, readPng } from "./png.js";
import { isTiff, readTiff } from "./tiff.js";

/** Largest number of pixels: a browser gives the network at most 4 GB of memory. */
export const MOST_PX = 1 << 25;

/**
 * Reads an image of any known format, recognised by its content.
 * @param {Blob} file
 * @returns {Promise<{width: number, height: number, planes: Float32Array[], bits: number, pixelSizeUm?: number,
 *   pixelSizeSource?: string}>} one plane (H,W) of a grey image, three of a coloured one, values as stored
 * @throws {Error} whose message is meant for the user
 */
export async function readPicture(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (!bytes.length) throw new Error("The file is empty.");
  const picture = isPng(bytes)
    ? await readPng(bytes, MOST_PX)
    : isTiff(bytes)
      ? await readTiff(bytes, MOST_PX)
      : await decode(file);
  const { width, height } = picture;
  if (width * height > MOST_PX) {
    throw new Error(
      `The image has ${width} × ${height} pixels, too many for a browser's memory: the limit is ` +
        `${MOST_PX >> 20} megapixels. \`cytoseed segment\` takes images of any size.`,
    );
  }
  if (picture.planes.some((plane) => !plane.every(Number.isFinite))) {
    throw new Error("The image contains NaN or infinite values.");
  }
  return picture;
}

/** Lets the browser decode other formats: JPEG, WebP, AVIF, GIF, BMP. */
async function decode(file) {
  const asStored = { colorSpaceConversion: "none", imageOrientation: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(file, asStored).catch(() => {
    throw new Error("This file is not an image that the page can read: use PNG, TIFF, JPEG or WebP.");
  });
  const { width, height } = bitmap;
  if (width * height > MOST_PX) return { width, height, planes: [], bits: 0 };
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const planes = separate(Float32Array.from(data), 4, 3);
  const grey = planes[0].every((value, index) => value === planes[1][index] && value === planes[2][index]);
  return { width, height, planes: grey ? planes.slice(0, 1) : planes, bits: 8 };
}
