// Normalisation by percentiles, as in src/cytoseed/core/prepare.py, for models that do not include it.

import { roundHalfEven } from "./scale.js";

const ONE_IN = 1000; // pixels lies below percentile 0.1, and as many above percentile 99.9
const [CLIP_LOW, CLIP_HIGH] = [-0.5, 1.5];

/**
 * Maps percentile 0.1 of a plane to 0 and percentile 99.9 to 1, clipped to [-0.5, 1.5]; a constant plane becomes 0.
 * @param {Float32Array} plane (H,W), finite
 * @returns {Float32Array} (H,W)
 */
export function normalise(plane) {
  const sorted = plane.slice().sort();
  const last = sorted.length - 1;
  const below = roundHalfEven(last / ONE_IN);
  let [low, high] = [sorted[below], sorted[last - below]];
  if (low >= high) [low, high] = [sorted[0], sorted[last]];
  const span = Math.fround(high - low);
  if (!(span > 0)) return new Float32Array(plane.length);
  return plane.map((value) => Math.min(CLIP_HIGH, Math.max(CLIP_LOW, Math.fround(value - low) / span)));
}
