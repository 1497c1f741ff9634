// Uses the page as a person would, in a Chromium without a window: for tests/examples/test_web.py.
//
// node drive.js TASK.json, where the task is {url, chromium, folder, elsewhere, steps: [{image, drops, scale, value,
// saves, shot}]}: files saved go to `folder`. Prints {steps: [{state, count, status, error, facts, saved}], requests,
// reached, said}: every request that left the browser, and whether page or worker reached the address `elsewhere`.

import { readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import puppeteer from "puppeteer-core";

const SETTLED = 'body[data-state="done"], body[data-state="failed"]';
const PATIENCE_MS = 300_000;
const READY = 'body[data-state="ready"], body[data-state="failed"]';

const task = JSON.parse(await readFile(process.argv[2], "utf8"));
const browser = await puppeteer.launch({
  executablePath: task.chromium,
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});
try {
  process.stdout.write(JSON.stringify(await drive(await browser.newPage())));
} finally {
  await browser.close();
}

async function drive(page) {
  const [requests, said] = [[], []];
  const session = await browser.target().createCDPSession();
  const parameters = { behavior: "allowAndName", downloadPath: task.folder, eventsEnabled: true };
  await session.send("Browser.setDownloadBehavior", parameters);
  page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`));
  await record(requests);
  await page.setViewport({ width: 1280, height: 860 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: task.scheme ?? "light" }]);
  await page.goto(task.url);
  await page.waitForSelector(READY, { timeout: PATIENCE_MS });
  const steps = [];
  for (const step of task.steps) steps.push(await take(page, session, step));
  const reached = task.elsewhere ? await probe(page) : null;
  return { steps, requests, reached, said };
}

/** Notes every request of the page and of its workers, also of those that are started later. */
async function record(requests) {
  const watch = async (target) => {
    const session = await target.createCDPSession().catch(() => null);
    if (!session) return;
    session.on("Network.requestWillBeSent", ({ request }) => {
      const { method, url, hasPostData } = request; // those of the browser's own pages are chrome: and data:
      if (/^(https?|wss?|blob):/.test(url)) requests.push({ method, url, posts: Boolean(hasPostData) });
    });
    await session.send("Network.enable").catch(() => {});
  };
  browser.on("targetcreated", watch);
  await Promise.all(browser.targets().map(watch));
}

async function take(page, session, step) {
  if (step.scale) await page.click(`input[name="scale"][value="${step.scale}"]`);
  if (step.value) await type(page, step.scale, step.value);
  await page.$eval("body", (body) => (body.dataset.state = "asked")); // not taken for settled before it has begun
  if (step.drops) await drop(page, step.image);
  else if (step.image) await (await page.$("#file")).uploadFile(step.image);
  else await page.click("#again");
  await page.waitForSelector(SETTLED, { timeout: PATIENCE_MS });
  const read = (id) => page.$eval(`#${id}`, (element) => element.textContent);
  const [count, status, error, facts] = await Promise.all(["count", "status", "error", "facts"].map(read));
  const saved = [];
  for (const kind of step.saves ?? []) saved.push(await save(page, session, kind));
  if (step.shot) await page.screenshot({ path: step.shot });
  return { state: await page.$eval("body", (body) => body.dataset.state), count, status, error, facts, saved };
}

async function type(page, id, value) {
  await page.$eval(`#${id}`, (input) => (input.value = ""));
  await page.type(`#${id}`, String(value));
}

/** Lets a file fall on the page. */
async function drop(page, path) {
  const data = (await readFile(path)).toString("base64");
  await page.evaluate(
    (encoded, name) => {
      const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File([bytes], name));
      document.getElementById("stage").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
    },
    data,
    path.split("/").at(-1),
  );
}

/** Presses a button and waits for the file; gives its path, under the name that a person would see. */
async function save(page, session, kind) {
  const started = new Promise((resolve) => session.once("Browser.downloadWillBegin", resolve));
  const ended = new Promise((resolve) => {
    session.on("Browser.downloadProgress", ({ state }) => state === "completed" && resolve());
  });
  await page.click(`[data-saves="${kind}"]`);
  const { guid, suggestedFilename } = await started;
  await ended;
  await rename(join(task.folder, guid), join(task.folder, suggestedFilename));
  return suggestedFilename;
}

/** Tells whether the page, or its worker, can send anything to another address. */
async function probe(page) {
  const send = (url) =>
    fetch(url, { method: "POST", mode: "no-cors", body: "pixels" }).then(
      () => true,
      () => false,
    );
  const worker = page.workers().find((each) => each.url().startsWith("blob:")); // not the runtime's own threads
  return { page: await page.evaluate(send, task.elsewhere), worker: await worker.evaluate(send, task.elsewhere) };
}
