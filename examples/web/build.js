// Puts together the folder `site`: the page, the runtime, the model. Any web server can serve it.

import { cp, mkdir, rm, stat } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const FROM_PACKAGES = [
  "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
  "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
];

process.chdir(fileURLToPath(new URL(".", import.meta.url)));
await stat("model/nuclei.onnx").catch(() => {
  console.error("The model is missing. Export it with: cytoseed export nuclei --to onnx --output model");
  process.exit(1);
});
await rm("site", { recursive: true, force: true });
await cp("page", "site", { recursive: true });
await mkdir("site/vendor");
for (const path of FROM_PACKAGES) await cp(`node_modules/${path}`, `site/vendor/${path.split("/").at(-1)}`);
await cp("model/nuclei.onnx", "site/model/nuclei.onnx");
