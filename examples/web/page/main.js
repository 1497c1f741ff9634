// The page: passes an image to the worker, shows and saves the result.

import { toCsv, toGeoJson } from "./objects.js";
import { writePng } from "./png.js";
import { View } from "./view.js";

const HIGHEST_ID = 65535;
const element = (id) => document.getElementById(id);
const view = new View(element("view"));
let worker = null;
let isReady = false; // the model is loaded
let isBusy = false; // the worker has an image
let isWaiting = false; // an image is to be segmented as soon as the model is loaded
let file = null;
let asked = null; // what the user stated of the scale
let picture = null;
let result = null;

/**
 * Starts the thread with the model. A script from a blob address inherits the page's security policy, so the worker
 * cannot send anything elsewhere either.
 */
function startWorker() {
  worker?.terminate();
  [isReady, isBusy] = [false, false];
  const source = `import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`;
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const own = new Worker(address, { type: "module" });
  worker = own;
  worker.onmessage = ({ data }) => own === worker && HANDLERS[data.kind](data);
  worker.onerror = () => fail("The page is incomplete: run `npm run build`, and serve the folder `site`.");
  worker.postMessage({ kind: "load", base: new URL(".", location.href).href });
}

const HANDLERS = {
  loading({ share }) {
    if (element("error").hidden) wait(`Loading the model: ${Math.round(100 * share)} %`, share);
  },
  ready(model) {
    isReady = true;
    showModel(model);
    if (isWaiting) segment();
    else settle(element("error").hidden ? "Ready." : "", element("error").textContent);
  },
  picture(shown) {
    picture = shown;
    view.showImage(shown.image);
    element("facts").textContent = describe(shown);
    wait("Finding nuclei…");
  },
  objects(found) {
    isBusy = false;
    result = { ...found, pixelSizeUm: asked.pixelSizeUm ?? picture.pixelSizeUm };
    view.showOutlines(found.rings);
    element("count").textContent = found.rows.length.toLocaleString("en");
    element("view").setAttribute("aria-label", `${file.name} with ${found.rows.length} nuclei outlined`);
    showModel(found.by);
    const stain = found.by.stain ? ` on ${found.by.stain}` : "";
    settle(`Found in ${found.seconds.toFixed(1)} s by ${found.by.name}${stain}. ${scaleNotice()}`);
  },
  failed({ message, isFatal }) {
    fail(message);
    if (isFatal) startWorker();
  },
};

function open(chosen) {
  if (!chosen) return;
  file = chosen;
  picture = null;
  element("name").textContent = file.name;
  element("facts").textContent = "";
  view.showImage(null);
  if (isReady && isBusy) startWorker(); // what it is doing is not wanted any more
  if (isReady) segment();
  else {
    isWaiting = true;
    wait("Loading the model…");
    if (!worker) startWorker(); // the model could not be loaded; it may be there by now
  }
}

function segment() {
  [asked, result, isWaiting] = [stated(), null, false];
  element("count").textContent = "–";
  if (!asked) {
    fail("Enter the scale: the pixel size in µm, or the diameter of a nucleus in px.");
    return;
  }
  isBusy = true;
  wait("Reading the image…");
  worker.postMessage({ kind: "segment", file, stated: asked });
}

/** The scale that the user entered; null if a number is missing. */
function stated() {
  const choice = element("scale").elements.scale.value;
  if (choice === "file") return {};
  const value = element(choice).valueAsNumber;
  if (!(value > 0)) return null;
  return choice === "size" ? { pixelSizeUm: value } : { diameterPx: value };
}

function describe({ width, height, channels, bits, pixelSizeUm, pixelSizeSource }) {
  const um = pixelSizeUm && Number(pixelSizeUm.toPrecision(4));
  const size = um ? `${um} µm/px (${pixelSizeSource})` : "unknown pixel size";
  return `${width} × ${height} px, ${channels === 1 ? "grey" : "colour"}, ${bits} bit, ${size}`;
}

function showModel({ name, version, licence }) {
  element("model").textContent = `Model ${name} ${version}, ${licence}`;
}

function scaleNotice() {
  if (picture.factor !== 1) return `The image was rescaled by ${Number(picture.factor.toPrecision(3))}.`;
  if (picture.pixelSizeUm || Object.keys(asked).length) return "";
  return "Unknown pixel size: not rescaled, which suits nuclei 8 to 40 px wide. For others, enter the scale.";
}

function wait(words, share) {
  show(words, "");
  const progress = element("progress");
  progress.hidden = false;
  if (share === undefined) progress.removeAttribute("value");
  else progress.value = share;
}

function settle(words, message = "") {
  element("progress").hidden = true;
  show(words, message);
}

function fail(message) {
  isBusy = false;
  if (!isReady) worker = null;
  settle("", message);
}

function show(words, message) {
  element("status").textContent = words;
  element("error").textContent = message;
  element("error").hidden = !message;
  element("again").disabled = !file || !isReady || isBusy;
  element("invitation").hidden = Boolean(file) && !(message && !picture);
  for (const id of ["view", "zoom"]) element(id).hidden = !picture;
  for (const button of document.querySelectorAll("[data-saves]")) button.disabled = !result;
  document.body.dataset.state = message ? "failed" : isBusy || !isReady ? "busy" : result ? "done" : "ready";
}

async function save(kind) {
  const { labels, rows, rings, pixelSizeUm } = result;
  const stem = file.name.replace(/\.[^.]+$/, "");
  if (kind === "labels" && rows.length > HIGHEST_ID) {
    fail(`There are ${rows.length} nuclei, but a 16-bit PNG can number only ${HIGHEST_ID}: save the outlines or the table.`);
  } else if (kind === "labels") download(await writePng(labels, picture.width, picture.height), `${stem}.labels.png`);
  else if (kind === "geojson") download(new Blob([toGeoJson(rows, rings)]), `${stem}.geojson`);
  else download(new Blob([toCsv(rows, pixelSizeUm)]), `${stem}.csv`);
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // not before the browser has begun
}

function listen() {
  const stage = element("stage");
  element("file").addEventListener("change", ({ target }) => {
    open(target.files[0]);
    target.value = ""; // the same file again is a change, too
  });
  for (const button of document.querySelectorAll("[data-opens]")) {
    button.addEventListener("click", () => element("file").click());
  }
  for (const button of document.querySelectorAll("[data-saves]")) {
    button.addEventListener("click", () => save(button.dataset.saves));
  }
  for (const id of ["closer", "farther", "fit"]) element(id).addEventListener("click", () => view[id]());
  element("outlined").addEventListener("change", ({ target }) => {
    view.showsOutlines = target.checked;
    view.draw();
  });
  element("scale").addEventListener("submit", (event) => {
    event.preventDefault();
    segment();
  });
  for (const id of ["size", "diameter"]) {
    element(id).addEventListener("input", () => (element("scale").elements.scale.value = id));
  }
  addEventListener("dragover", (event) => {
    event.preventDefault(); // else the browser would leave the page for the image
    stage.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || stage.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    open(event.dataTransfer.files[0]);
  });
}

listen();
startWorker();
