// The page: which image is shown, its channels, its objects, and everything that can be asked of them.

import { Objects, Overlay, spread } from "./objects.js";
import { drawHistogram, drawScatter, onDrag } from "./plots.js";

const $ = (id) => document.getElementById(id);
const home = location.pathname.replace(/[^/]*$/, "");
let viewer, view, base, overlay, objects, histogramRange, scatterRange, order = [], orderPlace = -1;

const number = (value) => Number(value.toPrecision(5)).toString();

async function json(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => new Option(name || "nothing", name, false, name === chosen)));
}

// The image

function showText() {
  if (view.brightfield) return "";
  return view.channels.map((each, index) => ({ ...each, index })).filter((each) => each.on)
    .map((each) => `${each.index}:${each.colour.slice(1)}:${each.low}:${each.high}`).join(",");
}

function tileSource() {
  const levels = Math.ceil(Math.log2(Math.max(view.width, view.height)));
  const show = encodeURIComponent(showText());
  return { width: view.width, height: view.height, tileSize: view.tile, minLevel: Math.max(0, levels - 30), maxLevel: levels,
    getTileUrl: (level, x, y) => `${base}/image/${levels - level}/${x}/${y}${show ? `?show=${show}` : ""}` };
}

function reloadImage() {
  const bounds = viewer.viewport.getBounds();
  viewer.addOnceHandler("open", () => viewer.viewport.fitBounds(bounds, true));
  viewer.open(tileSource());
}

function listChannels() {
  $("channels").hidden = view.brightfield;
  $("channel-list").replaceChildren(...(view.brightfield ? [] : view.channels).map((each) => {
    const box = document.createElement("div");
    box.className = "channel";
    const on = Object.assign(document.createElement("input"), { type: "checkbox", checked: each.on });
    const colour = Object.assign(document.createElement("input"), { type: "color", value: each.colour });
    const name = Object.assign(document.createElement("span"), { textContent: each.name });
    const range = document.createElement("span");
    range.className = "row range";
    const ends = ["low", "high"].map((end) => Object.assign(document.createElement("input"), { type: "number", step: "any", value: number(each[end]), ariaLabel: `${each.name}, ${end}` }));
    range.append(ends[0], "to", ends[1]);
    box.append(on, colour, name, range);
    box.addEventListener("change", () => {
      Object.assign(each, { on: on.checked, colour: colour.value, low: Number(ends[0].value), high: Number(ends[1].value) });
      if (each.high > each.low && view.channels.some((one) => one.on)) reloadImage();
    });
    return box;
  }));
}

// Objects

function changed() {
  if (!objects) return;
  overlay?.draw();
  const shown = objects.shown ? objects.numberShown() : 0;
  $("selected").textContent = objects.filters.length || objects.inside ? `${shown.toLocaleString()} of ${view.count.toLocaleString()} objects` : "";
  const legend = $("legend");
  legend.replaceChildren();
  if (objects.colourBy) legend.append(number(objects.low), document.createElement("i"), number(objects.high));
  drawPlots();
}

async function drawPlots() {
  const name = $("filter-column").value;
  if (name && $("filters").open) {
    histogramRange = drawHistogram($("histogram"), await objects.column(name), objects.shown);
  }
  const [x, y] = [$("scatter-x").value, $("scatter-y").value];
  if (x && y && $("scatter").open) scatterRange = drawScatter($("scatter-plot"), await objects.column(x), await objects.column(y), objects.shown);
}

async function addFilter(name, low, high) {
  const values = await objects.column(name);
  objects.filters = objects.filters.filter((each) => each.name !== name);
  objects.filters.push({ name, values, low, high });
  listFilters();
}

function listFilters() {
  $("filter-list").replaceChildren(...objects.filters.map((each) => {
    const item = Object.assign(document.createElement("li"), { textContent: `${each.name}: ${number(each.low)} to ${number(each.high)} ` });
    const remove = Object.assign(document.createElement("button"), { textContent: "remove" });
    remove.addEventListener("click", () => { objects.filters = objects.filters.filter((one) => one !== each); listFilters(); });
    item.append(remove);
    return item;
  }));
  objects.update();
}

async function choose(id, move = false) {
  objects.chosen = id;
  objects.update();
  const row = id ? await json(`${base}/row/${id}`) : {};
  $("object-table").replaceChildren(...Object.entries(id ? { id, ...row } : {}).map(([name, value]) => {
    const line = document.createElement("tr");
    for (const text of [name, number(value)]) line.append(Object.assign(document.createElement("td"), { textContent: text }));
    return line;
  }));
  if (move && row.centroid_x_px !== undefined) {
    const around = Math.max(100, 8 * Math.sqrt(row.area_px));
    const item = viewer.world.getItemAt(0);
    viewer.viewport.fitBounds(item.imageToViewportRectangle(row.centroid_x_px - around / 2, row.centroid_y_px - around / 2, around, around));
  }
}

async function step(by) {
  const name = $("step-column").value;
  if (order.name !== name) {
    const values = await objects.column(name);
    order = [...values.keys()].filter((place) => Number.isFinite(values[place])).sort((a, b) => values[a] - values[b]);
    order.name = name;
    orderPlace = -1;
  }
  const shown = order.filter((place) => objects.shown[place + 1]);
  if (!shown.length) return;
  orderPlace = (orderPlace + by + shown.length) % shown.length;
  $("step-place").textContent = `${orderPlace + 1} of ${shown.length}`;
  await choose(shown[orderPlace] + 1, true);
}

// The lasso

function lasso() {
  const canvas = $("lasso");
  const points = [];
  canvas.width = canvas.clientWidth;
  canvas.height = canvas.clientHeight;
  canvas.classList.add("drawing");
  const context = canvas.getContext("2d");
  const move = (event) => {
    points.push([event.offsetX, event.offsetY]);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.strokeStyle = "#ffd400";
    context.lineWidth = 2;
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(x, y));
    context.stroke();
  };
  canvas.onpointerdown = (event) => { points.length = 0; canvas.setPointerCapture(event.pointerId); move(event); canvas.onpointermove = move; };
  canvas.onpointerup = async () => {
    canvas.onpointermove = canvas.onpointerdown = canvas.onpointerup = null;
    canvas.classList.remove("drawing");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (points.length > 2) await keepInside(points);
  };
}

async function keepInside(points) {
  const { left, top, scale } = overlay.place();
  const corners = points.map(([x, y]) => [left + x * scale, top + y * scale]);
  const [xs, ys] = [await objects.column("centroid_x_px"), await objects.column("centroid_y_px")];
  const inside = new Uint8Array(view.count + 1);
  for (let place = 0; place < xs.length; place++) inside[place + 1] = isInside(xs[place], ys[place], corners);
  objects.inside = inside;
  objects.update();
}

function isInside(x, y, corners) {
  let odd = false;
  for (let i = 0, j = corners.length - 1; i < corners.length; j = i++) {
    const [[xi, yi], [xj, yj]] = [corners[i], corners[j]];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) odd = !odd;
  }
  return odd ? 1 : 0;
}

// Beginning

function clear() {
  Object.assign(objects, { filters: [], inside: null });
  choose(0);
  listFilters();
}

function screenshot() {
  const [image] = [viewer.drawer.canvas];
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  if (overlay) context.drawImage(overlay.canvas, 0, 0, image.width, image.height);
  const link = Object.assign(document.createElement("a"), { href: canvas.toDataURL("image/png"), download: `${view.name}.png` });
  link.click();
}

function viewText() {
  const bounds = overlay?.place();
  const chosen = objects?.chosen ? `&object=${objects.chosen}` : "";
  return bounds ? `#view=${$("views").selectedIndex}&at=${[bounds.left, bounds.top, bounds.scale].map(number).join(",")}${chosen}` : "";
}

async function gatherNames() {
  for (;;) {
    const state = await json(`${base}/columns.json`);
    $("status").textContent = state.error || (state.ready ? "" : `reading measurements: ${state.done.toLocaleString()} of ${view.count.toLocaleString()} objects`);
    if (state.ready) return state.names;
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
}

async function show(index) {
  base = `${home}${index}`;
  view = await json(`${base}/view.json`);
  objects = null;
  $("facts").textContent = [`${view.width} x ${view.height} px`, view.pixel_size_um ? `${number(view.pixel_size_um)} µm per px` : "scale unknown",
    ...(view.count === undefined ? [] : [`${view.count.toLocaleString()} ${view.targets.at(-1)}`, view.model])].join(", ");
  listChannels();
  for (const id of ["objects", "filters", "scatter", "steps", "object"]) $(id).hidden = view.count === undefined;
  await new Promise((resolve) => { viewer.addOnceHandler("open", resolve); viewer.open(tileSource()); });
  overlay?.canvas.remove();
  overlay = new Overlay(viewer, view, base);
  if (view.count === undefined) return;
  objects = new Objects(base, view, changed);
  overlay.objects = objects;
  fill($("target"), view.targets, view.targets.at(-1));
  overlay.target = view.targets.length - 1;
  changed();
  const names = await gatherNames();
  for (const id of ["filter-column", "scatter-x", "scatter-y", "step-column"]) fill($(id), names, id === "scatter-y" ? names.find((name) => name.startsWith("mean_")) : "area_px");
  fill($("colour"), ["", ...names], "");
  drawPlots();
}

function listen() {
  $("views").addEventListener("change", () => show($("views").selectedIndex));
  $("target").addEventListener("change", () => { overlay.target = $("target").selectedIndex; overlay.draw(); });
  for (const name of ["outlines", "filled"]) $(name).addEventListener("change", () => { overlay[name] = $(name).checked; overlay.draw(); });
  $("colour").addEventListener("change", async () => { objects.colourBy = $("colour").value; if (objects.colourBy) await objects.column(objects.colourBy); objects.update(); });
  for (const id of ["filter-column", "scatter-x", "scatter-y"]) $(id).addEventListener("change", drawPlots);
  for (const id of ["scatter", "filters"]) $(id).addEventListener("toggle", () => objects && drawPlots());
  $("filter-add").addEventListener("click", async () => {
    const [low, high] = spread(await objects.column($("filter-column").value));
    const given = ["filter-low", "filter-high"].map((id) => $(id).value);
    addFilter($("filter-column").value, given[0] === "" ? -Infinity : Number(given[0]), given[1] === "" ? Infinity : Number(given[1]), low, high);
  });
  onDrag($("histogram"), ([from, to]) => {
    const [low, high] = histogramRange;
    const ends = [from, to].map((share) => low + share * (high - low));
    ["filter-low", "filter-high"].forEach((id, index) => { $(id).value = number(ends[index]); });
    addFilter($("filter-column").value, ...ends);
  });
  onDrag($("scatter-plot"), (x, y) => {
    for (const [id, shares, range] of [["scatter-x", x, scatterRange.x], ["scatter-y", y, scatterRange.y]])
      addFilter($(id).value, ...shares.map((share) => range[0] + share * (range[1] - range[0])));
  });
  $("draw-lasso").addEventListener("click", lasso);
  $("clear").addEventListener("click", clear);
  $("step-on").addEventListener("click", () => step(1));
  $("step-back").addEventListener("click", () => step(-1));
  $("screenshot").addEventListener("click", screenshot);
  $("link").addEventListener("click", () => navigator.clipboard?.writeText(location.href.split("#")[0] + viewText()));
  viewer.addHandler("canvas-click", (event) => {
    if (!event.quick || !objects) return;
    event.preventDefaultAction = true;
    const point = viewer.world.getItemAt(0).viewerElementToImageCoordinates(event.position);
    choose(overlay.idAt(point.x, point.y));
  });
  document.addEventListener("keydown", (event) => {
    if (/INPUT|SELECT/.test(event.target.tagName) || event.ctrlKey || event.metaKey || !objects) return;
    const action = { l: lasso, s: screenshot, Escape: clear, ".": () => step(1), ",": () => step(-1) }[event.key];
    if (action) { event.preventDefault(); action(); }
  });
}

async function start() {
  viewer = OpenSeadragon({ id: "viewer", showNavigationControl: false, showNavigator: true, maxZoomPixelRatio: 16, drawer: "canvas",
    imageSmoothingEnabled: false, gestureSettingsMouse: { clickToZoom: false }, animationTime: 0.4, crossOriginPolicy: false });
  Object.assign(window, { cytoseed: { get viewer() { return viewer; }, get objects() { return objects; }, get overlay() { return overlay; } } });
  fill($("views"), await json(`${home}views.json`));
  listen();
  const asked = new URLSearchParams(location.hash.slice(1));
  $("views").selectedIndex = Math.min(Number(asked.get("view") ?? 0), $("views").length - 1);
  await show($("views").selectedIndex);
  if (asked.get("at")) {
    const [left, top, scale] = asked.get("at").split(",").map(Number);
    const item = viewer.world.getItemAt(0);
    viewer.viewport.fitBounds(item.imageToViewportRectangle(left, top, scale * viewer.canvas.clientWidth, scale * viewer.canvas.clientHeight), true);
  }
  if (asked.get("object") && objects) choose(Number(asked.get("object")));
}

start().catch((error) => { $("status").textContent = String(error); });
