// Puts together the folder `site`: the page, the runtime, the models. Any web server can serve it.

import { cp, mkdir, rm, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const FROM_PACKAGES = [
  "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
  "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
];
const MODELS = ["nuclei", "nuclei-he"];

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
for (const name of MODELS) {
  await stat(`model/${name}.onnx`).catch(() => {
    console.error(`The model is missing. Export it with: cytoseed export ${name} --to onnx --output model`);
    process.exit(1);
  });
}
await rm("site", { recursive: true, force: true });
await cp("page", "site", { recursive: true });
await mkdir("site/vendor");
for (const path of FROM_PACKAGES) await cp(`node_modules/${path}`, `site/vendor/${path.split("/").at(-1)}`);
for (const name of MODELS) await cp(`model/${name}.onnx`, `site/model/${name}.onnx`);
