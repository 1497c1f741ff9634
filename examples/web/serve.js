// Serves the folder `site` on this computer, with the headers that let the runtime use several threads.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const SITE = fileURLToPath(new URL("site", import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
  ".svg": "image/svg+xml",
};
const ISOLATED = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

const port = Number(process.env.PORT ?? 8080);
const server = createServer(async (request, response) => {
  const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  const file = join(SITE, normalize(path.endsWith("/") ? `${path}index.html` : path));
  const found = file.startsWith(SITE) && (await stat(file).catch(() => null));
  if (!found?.isFile() || request.method !== "GET") {
    response.writeHead(found ? 405 : 404).end();
    return;
  }
  const type = TYPES[extname(file)] ?? "application/octet-stream";
  const about = { "Content-Type": type, "Content-Length": found.size, "Cache-Control": "no-cache" };
  response.writeHead(200, { ...about, ...ISOLATED });
  createReadStream(file).pipe(response);
});
server.listen(port, "127.0.0.1", () => console.log(`http://localhost:${server.address().port}/`));
