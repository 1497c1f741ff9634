// Which model suits an image, as `--model auto` decides it (src/cytoseed/run/auto.py), and haematoxylin alone.

const [WHOLE_PX, BLOCKS, BLOCK_PX] = [1 << 18, 8, 64]; // of larger images, blocks spread evenly are judged
const [BRIGHT, GLASS, MUCH_BROWN] = [96, 215, 0.05];
const FROM_RGB = [1.8779827368521356, -0.06590806222356334, -0.6019073634392891]; // of haematoxylin: scikit-image's hed_from_rgb
const DARKEST = 1e-6;

/**
 * Chooses the model: `nuclei-he` for a brightfield picture in colours; `nuclei`, on haematoxylin, where much of it is
 * brown of DAB; `nuclei` for everything else.
 * @param {{width: number, height: number, planes: Float32Array[], bits: number}} picture
 * @returns {{name: string, stain: string | null}}
 */
export function choiceOf({ width, height, planes, bits }) {
  const other = { name: "nuclei", stain: null };
  if (planes.length !== 3 || bits > 8) return other;
  const [red, green, blue] = planes;
  let [number, bright, stained, brown, isGrey] = [0, 0, 0, 0, true];
  for (const index of sampled(width, height)) {
    const [r, g, b] = [red[index], green[index], blue[index]];
    number++;
    if (r + g + b >= 3 * BRIGHT) bright++;
    isGrey &&= r === g && r === b;
    if (r + g + b < 3 * GLASS) {
      stained++;
      if (g - b > 15 && r - b > 40) brown++;
    }
  }
  if (2 * bright < number || isGrey) return other;
  const isBrown = brown / Math.max(1, stained) > MUCH_BROWN;
  return isBrown ? { name: "nuclei", stain: "haematoxylin" } : { name: "nuclei-he", stain: null };
}

/** Minus the optical density of haematoxylin in a picture of 8 bits, as `unmix` in src/cytoseed/images/channels.py. */
export function haematoxylin(planes) {
  const densityOf = (value) => Math.log(Math.max(value / 255, DARKEST)) / Math.log(DARKEST);
  const density = Float64Array.from({ length: 256 }, (_, value) => densityOf(value));
  return planes[0].map((_, index) => {
    const amount = FROM_RGB.reduce((sum, factor, channel) => sum + factor * density[planes[channel][index]], 0);
    return -Math.max(0, amount);
  });
}

/** Places of the pixels that are judged. */
function* sampled(width, height) {
  const isWhole = width * height <= WHOLE_PX;
  const starts = (side) => {
    const last = Math.max(0, side - BLOCK_PX);
    const even = Array.from({ length: BLOCKS - 1 }, (_, block) => Math.trunc(block * (last / (BLOCKS - 1))));
    return isWhole ? [0] : [...even, last];
  };
  const reach = (side) => (isWhole ? side : Math.min(BLOCK_PX, side));
  for (const top of starts(height)) {
    for (const left of starts(width)) {
      for (let y = top; y < top + reach(height); y++) {
        for (let x = left; x < left + reach(width); x++) yield y * width + x;
      }
    }
  }
}
