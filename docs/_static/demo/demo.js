// The page: chooses an image, runs the network tile by tile, and draws what happens.

import { labelInstances, normalise, mirror, predictTiled, unet } from "./segment.js";

const GEOMETRY = unet(3); // that of network.onnx
const TILE = 196;
const MOST_PIXELS = 4e6;
const RUNTIME = new URL("../onnxruntime-web/", import.meta.url).href;
const RED = "#e63946", BLUE = "#56b4e9";

const part = (name) => document.getElementById(`demo-${name}`);
const say = (text) => (part("status").textContent = text);
const page = { run: null, busy: false };

async function loadNetwork() {
  const runtime = await import(`${RUNTIME}ort.wasm.min.mjs`).catch(() => {
    const served = location.protocol.startsWith("http");
    throw new Error(
      served
        ? "onnxruntime-web is missing on this site: it was built without npm."
        : "Scripts may not read files here: serve the site, with python -m http.server -d site.",
    );
  });
  runtime.env.wasm.wasmPaths = RUNTIME;
  runtime.env.wasm.numThreads = 1; // more need headers that few servers send
  const session = await runtime.InferenceSession.create(new URL("network.onnx", import.meta.url).href);
  return async (tile, height, width) => {
    const image = new runtime.Tensor("float32", tile, [1, 1, height, width]);
    return (await session.run({ image })).probabilities.data;
  };
}

// The grey values of a picture, with the weights that Pillow has for "L".
async function readGrey(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Error(`${width} x ${height} pixels are too many for this page: ${MOST_PIXELS} at most.`);
  }
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Float64Array(width * height);
  for (let i = 0; i < grey.length; i++) {
    const [r, g, b] = data.subarray(4 * i, 4 * i + 3);
    grey[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
  }
  return { width, height, grey };
}

// Draws colour(y, x), [r, g, b] of 0 to 255, into the canvas of this name.
function paint(name, width, height, colour) {
  const canvas = Object.assign(part(name), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const picture = context.createImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) picture.data.set([...colour(y, x), 255], 4 * (y * width + x));
  }
  context.putImageData(picture, 0, 0);
  return context;
}

// The image, continued by its mirror image as far as tiles reach, and darker there. Gives a function that
// marks a tile: its pixels in blue; what the network sees of it in red.
function paintTiles({ width, height, grey }, { rows, columns }) {
  const halo = rows.halo;
  const reach = (side) => Math.max(...side.parts.map(([start]) => start + side.output)) + halo;
  const [down, across] = [Math.max(reach(rows), height) + halo, Math.max(reach(columns), width) + halo];
  const shade = (y, x) => {
    const inside = y >= 0 && y < height && x >= 0 && x < width;
    return grey[mirror(y, height) * width + mirror(x, width)] * (inside ? 1 : 0.5);
  };
  const context = paint("tiles", across, down, (y, x) => Array(3).fill(shade(y - halo, x - halo)));
  const untouched = context.getImageData(0, 0, across, down);
  const box = (colour, left, top, w, h) => {
    context.strokeStyle = colour;
    context.lineWidth = Math.max(2, across / 250);
    context.strokeRect(left + halo, top + halo, w, h);
  };
  const done = [];
  return (tile) => {
    done.push(tile);
    context.putImageData(untouched, 0, 0);
    for (const { left, top, right, bottom } of done) box(BLUE, left, top, right - left, bottom - top);
    box(RED, tile.left - halo, tile.top - halo, columns.input, rows.input);
  };
}

// A colour for each object, far from those of the objects before it.
function colourOf(label) {
  if (!label) return [0, 0, 0];
  const hue = (label * 137.508) % 360;
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.6 - 0.36 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

// Predicts an image, draws it, and gives the probabilities and the numbered objects.
export async function segment(image) {
  page.run ??= await loadNetwork();
  const { width, height, grey } = image;
  let mark = null;
  const started = performance.now();
  const pixels = normalise(grey);
  const onTile = async (tile, number, total) => {
    mark ??= paintTiles(image, tile);
    mark(tile);
    say(`Tile ${number} of ${total} …`);
    await new Promise((shown) => setTimeout(shown, 0));
  };
  const probabilities = await predictTiled(page.run, GEOMETRY, { width, height, pixels }, TILE, onTile);
  const { labels, count } = labelInstances(probabilities, width, height);
  paint("classes", width, height, (y, x) => Array(3).fill(255 * probabilities[y * width + x]));
  paint("objects", width, height, (y, x) => {
    const at = y * width + x;
    const colour = colourOf(labels[at]);
    return labels[at] ? colour.map((c) => 0.65 * c + 0.35 * grey[at]) : Array(3).fill(grey[at]);
  });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  say(`${count} objects in ${width} x ${height} pixels, ${seconds} s`);
  return { probabilities, labels, count };
}

// One image at a time; an error is shown where the result would be.
export async function show(blob) {
  if (page.busy) return null;
  page.busy = true;
  say("Loading …");
  try {
    return await segment(await readGrey(await blob));
  } catch (error) {
    const unreadable = error.name === "InvalidStateError";
    say(unreadable ? "This file is no picture that the browser can read." : error.message);
    return null;
  } finally {
    page.busy = false;
  }
}

const fetched = async (url) => (await fetch(url)).blob();

for (const button of document.querySelectorAll("#demo button")) {
  button.addEventListener("click", () => show(fetched(new URL(button.dataset.sample, import.meta.url))));
}
part("file").addEventListener("change", (event) => event.target.files.length && show(event.target.files[0]));
const drop = document.getElementById("demo");
for (const name of ["dragover", "drop"]) drop.addEventListener(name, (event) => event.preventDefault());
drop.addEventListener("drop", ({ dataTransfer }) => dataTransfer.files.length && show(dataTransfer.files[0]));
