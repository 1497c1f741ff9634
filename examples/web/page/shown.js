// From the values of pixels to what a screen shows.

const SPARED = 0.001; // share of the pixels that may be darker than black, and lighter than white
const MOST_SAMPLES = 1 << 18;

/**
 * Makes a picture of planes. Those of 8-bit colour images are shown as they are, others between their percentiles 0.1
 * and 99.9, as the model sees them.
 * @param {{width: number, height: number, planes: Float32Array[], bits: number}} picture
 * @returns {ImageBitmap}
 */
export function toBitmap({ width, height, planes, bits }) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const limits = planes.map((plane) => (planes.length > 1 && bits <= 8 ? [0, 255] : limitsOf(plane)));
  for (let channel = 0; channel < 3; channel++) {
    const plane = planes[channel % planes.length];
    const [low, high] = limits[channel % planes.length];
    const gain = high > low ? 255 / (high - low) : 0;
    for (let index = 0; index < plane.length; index++) image.data[4 * index + channel] = (plane[index] - low) * gain;
  }
  for (let index = 3; index < image.data.length; index += 4) image.data[index] = 255;
  context.putImageData(image, 0, 0);
  return canvas.transferToImageBitmap();
}

function limitsOf(plane) {
  const step = Math.ceil(plane.length / MOST_SAMPLES);
  const some = plane.filter((_, index) => index % step === 0).sort();
  const last = some.length - 1;
  return [some[Math.round(SPARED * last)], some[Math.round((1 - SPARED) * last)]];
}
