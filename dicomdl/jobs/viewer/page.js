// The viewer: pictures come as values, and the window is applied here.
"use strict";
const $ = (id) => document.getElementById(id);
const MOST_LISTED = 300, MOST_CACHED = 160, AHEAD = 4;
const COLOURS = [[214, 94, 0], [87, 181, 232], [240, 227, 66], [0, 158, 115], [204, 120, 166], [0, 115, 178], [230, 158, 0]];
const state = { stacks: [], presets: [], shown: [], facts: null, planes: [], chosen: 0, lower: 0, width: 1, invert: false, source: -1, names: {}, labelled: true };
let request = 0; // of the stack that was asked for last

async function fetched(path) {
  const reply = await fetch(path);
  if (reply.ok) return reply;
  const words = await reply.json().then((found) => found.error, () => reply.statusText);
  throw new Error(words);
}
const json = (path) => fetched(path).then((reply) => reply.json());

async function array(path) {
  const reply = await fetched(path);
  const kinds = { uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, float32: Float32Array };
  const values = new kinds[reply.headers.get("X-Dtype")](await reply.arrayBuffer());
  return { values, shape: reply.headers.get("X-Shape").split(",").map(Number) };
}

function told(error) { $("message").textContent = error ? error.message || String(error) : ""; }
function made(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

// --- the list ---------------------------------------------------------------------------------

function listed() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (row) => `${row.number} ${row.modality} ${row.verdict.replaceAll("_", " ")} ${row.description} ${row.shape.join(" x ")} series ${row.series} patient ${row.patient}`.toLowerCase();
  state.shown = state.stacks.filter((row) => words.every((word) => text(row).includes(word)));
  const rows = state.shown.slice(0, MOST_LISTED).map((row) => {
    const item = made("li"), button = made("button");
    button.append(made("span", `${row.number}: ${row.modality || "?"} ${row.shape.join(" x ")}`),
      made("small", `${row.description || "no description"}, patient ${row.patient}`),
      made("small", row.verdict.replaceAll("_", " "), row.needs_person ? "bad" : ""));
    button.dataset.number = row.number;
    button.addEventListener("click", () => open(row.number));
    item.append(button);
    return item;
  });
  $("stacks").replaceChildren(...rows);
  const more = state.shown.length > MOST_LISTED ? `, the first ${MOST_LISTED} are listed` : "";
  $("count").textContent = `${state.shown.length} of ${state.stacks.length} stacks${more}`;
  marked();
}

function marked() {
  for (const button of $("stacks").querySelectorAll("button"))
    button.setAttribute("aria-current", String(state.facts && Number(button.dataset.number) === state.facts.number));
}

// --- a stack ----------------------------------------------------------------------------------

async function open(number) {
  const mine = ++request;
  told();
  try {
    const facts = await json(`stack/${number}/facts.json`);
    if (mine !== request) return;
    state.facts = facts;
    shown();
  } catch (error) {
    if (mine !== request) return;
    state.facts = { number };
    $("planes").replaceChildren(); state.planes = [];
    const row = state.stacks.find((each) => each.number === number);
    $("title").textContent = `Stack ${number}`; $("reason").textContent = row ? row.reason : "";
    $("facts").replaceChildren(); $("labelling").hidden = true;
    told(error);
  }
  location.replace(`#stack=${number}`);
  marked();
}

function shown() {
  const facts = state.facts, row = state.stacks.find((each) => each.number === facts.number);
  $("title").textContent = `Stack ${facts.number}: ${row.modality || "?"} ${row.shape.join(" x ")}, ${row.verdict.replaceAll("_", " ")}`;
  $("reason").textContent = facts.reason;
  [state.lower, state.width] = facts.window;
  state.invert = facts.invert; state.source = -1; state.names = {};
  $("units").textContent = facts.units;
  const lines = { description: row.description, "spacing mm": row.spacing.map((mm) => mm === null ? "?" : +mm.toFixed(4)).join(" x "), ...facts.dimension, ...facts.facts, ...facts.detail };
  if (facts.group.length > 1) lines.group = `${facts.group.length} stacks: ${facts.group.slice(0, 12).join(", ")}`;
  $("facts").replaceChildren(...Object.entries(lines).filter(([, v]) => v !== "" && v !== null).flatMap(([name, v]) => [made("dt", name.replaceAll("_", " ")), made("dd", typeof v === "object" ? JSON.stringify(v) : String(v))]));
  const presets = state.presets.filter(([name]) => name.startsWith(`${row.modality.toLowerCase()}.`));
  $("preset").replaceChildren(new Option("preset", ""), ...presets.map(([name, center, width]) => new Option(name, `${center},${width}`)));
  $("preset").hidden = !presets.length;
  $("labelling").hidden = !facts.labels.length;
  $("source").replaceChildren(new Option("none", -1), ...facts.labels.map((each) => new Option(`${each.kind} ${each.number + 1}${each.status === "ok" ? "" : ", " + each.status}`, each.number)));
  $("names").replaceChildren();
  state.planes = facts.planes.map(plane);
  state.chosen = Math.max(0, facts.planes.findIndex((each) => each.is_native));
  $("planes").replaceChildren(...state.planes.map((each) => each.figure));
  choose(state.chosen);
  windowed();
  state.planes.forEach((each) => go(each, Math.floor(each.count / 2)));
  solidShown();
}

function plane(facts, rank) {
  const each = { ...facts, rank, number: -1, cache: new Map(), picture: null, labels: null };
  each.figure = made("figure"); each.canvas = made("canvas"); each.caption = made("figcaption");
  each.canvas.setAttribute("role", "img");
  each.slider = Object.assign(made("input"), { type: "range", min: 0, max: facts.count - 1 });
  each.slider.setAttribute("aria-label", `${facts.name || "slices"}: number of the picture`);
  each.slider.hidden = facts.count < 2;
  each.slider.addEventListener("input", () => { choose(rank); go(each, Number(each.slider.value)); });
  each.canvas.addEventListener("wheel", (event) => { event.preventDefault(); choose(rank); go(each, each.number + Math.sign(event.deltaY)); }, { passive: false });
  let start = null;
  each.canvas.addEventListener("pointerdown", (event) => { choose(rank); each.canvas.setPointerCapture(event.pointerId); start = { x: event.clientX, y: event.clientY, center: state.lower + state.width / 2, width: state.width, moved: false }; });
  each.canvas.addEventListener("pointermove", (event) => {
    valued(each, event);
    if (!start) return;
    const dx = event.clientX - start.x, dy = event.clientY - start.y;
    if (Math.abs(dx) + Math.abs(dy) > 3) start.moved = true;
    if (!start.moved) return;
    const step = Math.max(start.width, 1e-6) / 200;
    state.width = Math.max(start.width + dx * step, step / 10);
    state.lower = start.center + dy * step - state.width / 2;
    windowed();
  });
  each.canvas.addEventListener("pointerup", (event) => { if (start && !start.moved) cross(each, event); start = null; });
  each.figure.append(each.canvas, each.caption, each.slider);
  new ResizeObserver(() => draw(each)).observe(each.figure);
  return each;
}

function choose(rank) {
  state.chosen = rank;
  state.planes.forEach((each) => each.figure.classList.toggle("chosen", each.rank === rank));
}

async function go(each, wanted) {
  const number = Math.min(Math.max(wanted, 0), each.count - 1), stack = state.facts.number;
  each.number = number; each.slider.value = number;
  captioned(each);
  try {
    const picture = await read(each, number, stack);
    if (each.number !== number || state.facts.number !== stack) return;
    each.picture = picture;
    each.labels = null;
    state.planes.forEach(draw);
    labelled(each, number, stack);
    for (let step = 1; step <= AHEAD; step++)
      for (const near of [number + step, number - step])
        if (near >= 0 && near < each.count && each.is_native) read(each, near, stack).catch(() => {});
  } catch (error) { if (state.facts.number === stack) told(error); }
}

function read(each, number, stack) {
  if (!each.cache.has(number)) {
    const asked = array(`stack/${stack}/picture?plane=${each.name}&number=${number}`);
    asked.catch(() => each.cache.delete(number));
    each.cache.set(number, asked);
    if (each.cache.size > MOST_CACHED) each.cache.delete(each.cache.keys().next().value);
  }
  return each.cache.get(number);
}

async function labelled(each, number, stack) {
  const source = state.source;
  if (source < 0) return;
  try {
    const labels = await array(`stack/${stack}/labels?plane=${each.name}&number=${number}&source=${source}`);
    if (each.number === number && state.facts.number === stack && state.source === source) { each.labels = labels; draw(each); }
  } catch (error) { told(error); }
}

function captioned(each) {
  each.caption.textContent = `${each.name || "slices"} ${each.number + 1} / ${each.count}`;
  each.canvas.setAttribute("aria-label", each.caption.textContent);
}

// --- pictures ---------------------------------------------------------------------------------

const off = document.createElement("canvas");

function draw(each) {
  const box = each.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  const wide = Math.max(1, Math.round(box.width * ratio)), high = Math.max(1, Math.round(box.height * ratio));
  if (each.canvas.width !== wide) each.canvas.width = wide;
  if (each.canvas.height !== high) each.canvas.height = high;
  const context = each.canvas.getContext("2d");
  context.clearRect(0, 0, wide, high);
  if (!each.picture) return;
  const [rows, columns] = each.picture.shape;
  off.width = columns; off.height = rows;
  const image = new ImageData(columns, rows), pixels = new Uint32Array(image.data.buffer), { values } = each.picture;
  if (each.picture.shape.length === 3)
    for (let n = 0; n < pixels.length; n++) pixels[n] = 0xff000000 | values[3 * n + 2] << 16 | values[3 * n + 1] << 8 | values[3 * n];
  else {
    const { lower, width } = state, scale = 255 / width, flip = state.invert ? 255 : 0;
    for (let n = 0; n < pixels.length; n++) {
      const scaled = (values[n] - lower) * scale;
      const grey = (scaled <= 0 || scaled !== scaled ? 0 : scaled >= 255 ? 255 : scaled + 0.5 | 0) ^ flip;
      pixels[n] = 0xff000000 | grey << 16 | grey << 8 | grey;
    }
  }
  if (state.labelled && each.labels) blended(image.data, each.labels.values);
  off.getContext("2d").putImageData(image, 0, 0);
  const fit = Math.min(wide / each.width_mm, high / each.height_mm);
  const w = each.width_mm * fit, h = each.height_mm * fit;
  each.placed = { x: (wide - w) / 2, y: (high - h) / 2, w, h, ratio };
  context.imageSmoothingQuality = "high";
  context.drawImage(off, each.placed.x, each.placed.y, w, h);
  crossed(each, context);
}

function blended(data, labels) {
  const ranks = Object.fromEntries(Object.keys(state.names).map((label, rank) => [label, rank]));
  for (let n = 0; n < labels.length; n++) {
    if (!labels[n]) continue;
    const colour = COLOURS[(ranks[labels[n]] ?? labels[n]) % COLOURS.length];
    for (let part = 0; part < 3; part++) data[4 * n + part] = 0.6 * data[4 * n + part] + 0.4 * colour[part];
  }
}

// The planes that cut a picture along its columns and along its rows, and whether they run back.
function cuts(each) {
  const sides = [[each.column_axis, each.turned[1]], [each.row_axis, each.turned[0]]];
  return sides.map(([axis, back]) => ({ other: state.planes.find((one) => one.axis === axis), back }));
}

function crossed(each, context) {
  const { x, y, w, h, ratio } = each.placed;
  context.strokeStyle = "rgba(255, 211, 61, .4)"; context.lineWidth = ratio;
  cuts(each).forEach(({ other, back }, side) => {
    if (!other) return;
    const at = ((back ? other.count - 1 - other.number : other.number) + 0.5) / other.count;
    context.beginPath();
    if (side === 0) { context.moveTo(x + at * w, y); context.lineTo(x + at * w, y + h); }
    else { context.moveTo(x, y + at * h); context.lineTo(x + w, y + at * h); }
    context.stroke();
  });
}

function cross(each, event) {
  if (!each.placed) return;
  const places = within(each, event);
  cuts(each).forEach(({ other, back }, side) => {
    const at = places[side];
    if (!other || at < 0 || at >= 1) return;
    const number = Math.floor(at * other.count);
    go(other, back ? other.count - 1 - number : number);
  });
}

function within(each, event) {
  const box = each.canvas.getBoundingClientRect(), { x, y, w, h, ratio } = each.placed;
  return [((event.clientX - box.left) * ratio - x) / w, ((event.clientY - box.top) * ratio - y) / h];
}

function valued(each, event) {
  if (!each.picture || !each.placed) return;
  const [rows, columns] = each.picture.shape, [across, down] = within(each, event);
  const row = Math.floor(down * rows), column = Math.floor(across * columns);
  if (row < 0 || column < 0 || row >= rows || column >= columns) { $("value").textContent = ""; return; }
  const samples = each.picture.shape[2] || 1, at = (row * columns + column) * samples;
  const value = [...each.picture.values.subarray(at, at + samples)].map((v) => +v.toPrecision(6)).join(", ");
  const label = each.labels ? each.labels.values[row * columns + column] : 0;
  $("value").textContent = `value ${value} ${state.facts.units}${label ? ", " + (state.names[label] || "label " + label) : ""}`;
}

function windowed() {
  $("center").value = +(state.lower + state.width / 2).toPrecision(6);
  $("width").value = +state.width.toPrecision(6);
  $("invert").checked = state.invert;
  state.planes.forEach(draw);
  solidWindowed();
}

async function sourced(source) {
  state.source = source; state.names = {}; state.labelled = true;
  $("source").value = source;
  const stack = state.facts.number;
  try {
    if (source >= 0) state.names = await json(`stack/${stack}/names.json?source=${source}`);
  } catch (error) { told(error); state.source = -1; }
  $("names").replaceChildren(...Object.entries(state.names).map(([, name], rank) => {
    const item = made("li"), swatch = made("span", undefined, "swatch");
    swatch.style.background = `rgb(${COLOURS[rank % COLOURS.length]})`;
    item.append(swatch, name);
    return item;
  }));
  state.planes.forEach((each) => { each.labels = null; labelled(each, each.number, stack); draw(each); });
  solidShown();
}

// --- controls ---------------------------------------------------------------------------------

$("filter").addEventListener("input", listed);
for (const id of ["center", "width"]) $(id).addEventListener("change", () => {
  const width = Math.max(Number($("width").value), 1e-6), center = Number($("center").value);
  if (Number.isFinite(center + width)) { state.width = width; state.lower = center - width / 2; }
  windowed();
});
$("invert").addEventListener("change", () => { state.invert = $("invert").checked; windowed(); });
$("source").addEventListener("change", () => sourced(Number($("source").value)));
$("preset").addEventListener("change", () => {
  const [center, width] = $("preset").value.split(",").map(Number);
  if (width) { state.width = width; state.lower = center - width / 2; windowed(); }
});

document.addEventListener("keydown", (event) => {
  if (event.target.matches("input:not([type=range]):not([type=checkbox]), select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const each = state.planes[state.chosen], row = state.shown.findIndex((one) => state.facts && one.number === state.facts.number);
  const next = (step) => { const other = state.shown[row + step]; if (other) open(other.number); };
  const keys = {
    ArrowDown: () => go(each, each.number + 1), ArrowUp: () => go(each, each.number - 1),
    PageDown: () => go(each, each.number + 10), PageUp: () => go(each, each.number - 10),
    Home: () => go(each, 0), End: () => go(each, each.count - 1),
    1: () => choose(0), 2: () => choose(1), 3: () => choose(2),
    f: () => $("planes").classList.toggle("one"),
    n: () => next(1), p: () => next(-1),
    d: () => solidToggled(),
    l: () => { if (state.source < 0 && state.facts.labels.length) sourced(0); else { state.labelled = !state.labelled; state.planes.forEach(draw); } },
    i: () => { state.invert = !state.invert; windowed(); },
    r: () => { [state.lower, state.width] = state.facts.window; state.invert = state.facts.invert; windowed(); },
  };
  const known = Object.hasOwn(keys, event.key) && (each || "np".includes(event.key));
  if (!known || ("123".includes(event.key) && !state.planes[event.key - 1])) return;
  event.preventDefault();
  keys[event.key]();
});

(async () => {
  try {
    const found = await json("stacks.json");
    state.stacks = found.stacks;
    state.presets = found.presets;
    solidOffered(found.has_solid);
    listed();
    const asked = Number((location.hash.match(/stack=(\d+)/) || [])[1] ?? NaN);
    const first = state.stacks.find((row) => row.number === asked) || state.stacks[0];
    if (first) open(first.number); else told("the index has no stacks");
  } catch (error) { told(error); }
})();
