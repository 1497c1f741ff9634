// The model, in a thread of its own, so that the page stays alive while it works.
//
// Takes {kind: "load"} once, then {kind: "segment", file, stated} any number of times. Gives {kind: "loading", share},
// {kind: "ready", name, version, licence}; for an image {kind: "picture", ...}, then {kind: "objects", ...}; or
// {kind: "failed", message, isFatal}.

import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
import { metadataOf } from "./metadata.js";
import { measure, outlines, wholeObjects } from "./objects.js";
import { readPicture } from "./picture.js";
import { normalise } from "./prepare.js";
import { rescale, rescaleLabels, seenSize } from "./scale.js";
import { toBitmap } from "./shown.js";
import { choiceOf, haematoxylin } from "./stain.js";

const FIRST_MODEL = "nuclei"; // others are loaded when an image needs them
const RUNTIME = "vendor/ort-wasm-simd-threaded.wasm";
const exportOf = (name) => `cytoseed export ${name} --to onnx --output model`;
const MOST_SEEN_PX = 1 << 23; // 2048 x 2048 px four times over; twice that is beyond the 4 GB that a browser gives
const OUT_OF_MEMORY =
  "The browser ran out of memory: use a part of the image, or `cytoseed segment`, which takes images of any size.";
const models = {}; // by name: {session, name, version, licence, channels, targets, pixelSizeUm, isRaw}
let base; // address of the page

onmessage = async ({ data }) => {
  try {
    if (data.kind === "load") await load(data.base);
    else await segment(data.file, data.stated);
  } catch (error) {
    console.error(error);
    const isFatal = isOfMemory(error); // what has been taken is given back with the thread only
    postMessage({ kind: "failed", message: isFatal ? OUT_OF_MEMORY : error.message, isFatal });
  }
};

async function load(address) {
  base = address;
  const shares = [0, 0];
  const report = (part) => (share) => {
    shares[part] = share;
    postMessage({ kind: "loading", share: 0.75 * shares[0] + 0.25 * shares[1] }); // the runtime is the larger
  };
  const [runtime, bytes] = await Promise.all([
    download(new URL(RUNTIME, base), report(0), "The page is incomplete: run `npm run build`."),
    downloadModel(FIRST_MODEL, report(1)),
  ]);
  ort.env.wasm.wasmBinary = runtime;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
  const { name, version, licence } = await open(FIRST_MODEL, bytes);
  postMessage({ kind: "ready", name, version, licence });
}

const downloadModel = (name, report) =>
  download(
    new URL(`model/${name}.onnx`, base),
    report,
    `The model is missing: \`${exportOf(name)}\`, then \`npm run build\`.`,
  );

/** Makes a model of the content of its file. */
async function open(name, bytes) {
  const about = metadataOf(bytes);
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const model = {
    session,
    name: about.name,
    version: about.version,
    licence: about.licence,
    channels: session.inputMetadata[0].shape[1],
    targets: session.outputMetadata[0].shape[1],
    pixelSizeUm: Number(about.pixel_size_um),
    isRaw: about.input !== "normalised",
  };
  if (!model.pixelSizeUm) throw new Error(`The model has no pixel size. Export it with \`${exportOf(name)}\`.`);
  if (model.targets > 1) throw new Error("The model finds nuclei and cells, but this page shows only one kind of object.");
  return (models[name] = model);
}

async function download(url, report, whenMissing) {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) throw new Error(whenMissing);
  const total = Number(response.headers.get("Content-Length"));
  const parts = [];
  let loaded = 0;
  for await (const part of chunks(response.body)) {
    parts.push(part);
    loaded += part.length;
    report(total ? Math.min(1, loaded / total) : 0);
  }
  report(1);
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function* chunks(stream) {
  const reader = stream.getReader(); // Safari does not loop over streams
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield value;
}

async function segment(file, stated) {
  const picture = await readPicture(file);
  const { width, height, bits, pixelSizeUm, pixelSizeSource } = picture;
  const { name, stain } = choiceOf(picture);
  const model = models[name] ?? (await open(name, await downloadModel(name, () => {})));
  const planes = stain ? [haematoxylin(picture.planes)] : picture.planes;
  const seen = seenSize(picture, stated, model.pixelSizeUm);
  if (seen.width * seen.height > MOST_SEEN_PX) {
    throw new Error(
      `At this scale the image has ${seen.width} × ${seen.height} pixels, too many for a browser's memory. ` +
        "`cytoseed segment` takes images of any size.",
    );
  }
  if (planes.length !== 1 && planes.length !== model.channels) {
    throw new Error(`The image has ${planes.length} channels, but the model takes ${model.channels}: save one of them.`);
  }
  const [image, channels] = [toBitmap(picture), picture.planes.length];
  const about = { image, width, height, channels, bits, pixelSizeUm, pixelSizeSource, factor: seen.factor };
  postMessage({ kind: "picture", ...about }, [image]);
  const start = performance.now();
  const found = await run(model, planes, picture, seen);
  const labels = rescaleLabels(found, seen, picture);
  const isScaled = seen.factor !== 1; // which may split objects, or lose them
  const count = isScaled ? wholeObjects(labels, width, height) : labels.reduce((most, id) => Math.max(most, id), 0);
  const seconds = (performance.now() - start) / 1000;
  const rows = measure(labels, width, count);
  const rings = outlines(labels, width, height, count);
  const { version, licence } = model;
  const by = { name: model.name, version, licence, stain };
  postMessage({ kind: "objects", labels, rows, rings, seconds, by }, [labels.buffer]);
}

/** Runs the model on planes (H,W) as they are stored; a grey image fills all its channels. */
async function run(model, planes, from, to) {
  const size = to.width * to.height;
  const values = new Float32Array(model.channels * size);
  const scaled = planes.map((plane) => rescale(model.isRaw ? plane : normalise(plane), from, to));
  for (let channel = 0; channel < model.channels; channel++) {
    values.set(scaled[channel % scaled.length], channel * size);
  }
  const image = new ort.Tensor("float32", values, [1, model.channels, to.height, to.width]);
  const { labels } = await model.session.run({ image });
  const found = labels.data.slice();
  labels.dispose();
  return found;
}

/** Tells a lack of memory from other errors; the runtime throws a bare number where it cannot even say that. */
function isOfMemory(error) {
  return !(error instanceof Error) || /bad_alloc|out of memory|memory access|allocat|array buffer/i.test(error.message);
}
