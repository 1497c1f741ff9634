// Calls the parts of examples/web/page that need no browser: [{call, ...}] from stdin, what they give to stdout.

import { metadataOf } from "../../examples/web/page/metadata.js";
import { measure, outlines, toCsv, toGeoJson, wholeObjects } from "../../examples/web/page/objects.js";
import { isPng, readPng, writePng } from "../../examples/web/page/png.js";
import { normalise } from "../../examples/web/page/prepare.js";
import { rescale, rescaleLabels, seenSize } from "../../examples/web/page/scale.js";
import { choiceOf, haematoxylin } from "../../examples/web/page/stain.js";
import { isTiff, readTiff } from "../../examples/web/page/tiff.js";

const bytesOf = (text) => Uint8Array.from(Buffer.from(text, "base64"));

const CALLS = {
  async read({ file, mostPx }) {
    const bytes = bytesOf(file);
    if (isPng(bytes) === isTiff(bytes)) throw new Error("no PNG and no TIFF");
    const picture = await (isPng(bytes) ? readPng : readTiff)(bytes, mostPx ?? 1e6);
    return { ...picture, planes: picture.planes.map((plane) => Array.from(plane)) };
  },
  async write({ values, width, height }) {
    const blob = await writePng(Int32Array.from(values), width, height);
    return Buffer.from(await blob.arrayBuffer()).toString("base64");
  },
  choice({ file }) {
    return readPng(bytesOf(file), 4e6).then(choiceOf);
  },
  async haematoxylin({ file }) {
    return Array.from(haematoxylin((await readPng(bytesOf(file), 1e6)).planes));
  },
  normalise: ({ values }) => Array.from(normalise(Float32Array.from(values))),
  seen: ({ picture, stated }) => seenSize(picture, stated, 0.5),
  rescale: ({ values, from, to }) => Array.from(rescale(Float32Array.from(values), from, to)),
  labels: ({ values, from, to }) => Array.from(rescaleLabels(Int32Array.from(values), from, to)),
  objects({ values, width, height, pixelSizeUm }) {
    const labels = Int32Array.from(values);
    const count = wholeObjects(labels, width, height);
    const rows = measure(labels, width, count);
    const rings = outlines(labels, width, height, count);
    return { labels: Array.from(labels), geojson: toGeoJson(rows, rings), csv: toCsv(rows, pixelSizeUm) };
  },
  metadata: ({ file }) => metadataOf(bytesOf(file)),
};

let asked = "";
for await (const part of process.stdin) asked += part;
const answers = [];
for (const { call, ...given } of JSON.parse(asked)) {
  answers.push(await Promise.resolve(given).then(CALLS[call]).catch((error) => ({ error: error.message })));
}
process.stdout.write(JSON.stringify(answers));
