// What tinyunet does around the network, in JavaScript: normalising, overlap-tile, numbered objects.
// The Python is in tinyunet/data/intensity.py and tinyunet/prediction/; tests compare the two.

import { around, cutAtNecks } from "./necks.js";

// The geometry of a valid U-Net, as tinyunet/models/geometry.py computes it.
export function unet(depth) {
  const step = 2 ** depth;
  const shrink = 12 * step - 8;
  const smallest = step * (8 - Math.floor(3 / step)) + 4 * (step - 1);
  return { smallest, step, shrink, halo: shrink / 2 };
}

// One channel with mean 0 and variance 1; a constant image becomes zeros.
export function normalise(grey) {
  let mean = 0;
  for (const value of grey) mean += value;
  mean /= grey.length;
  let square = 0;
  for (const value of grey) square += (value - mean) ** 2;
  const constant = grey.every((value) => value === grey[0]);
  const deviation = constant ? Infinity : Math.sqrt(square / grey.length);
  return Float32Array.from(grey, (value) => (value - mean) / deviation);
}

// The pixel at an index of an endlessly mirrored row; the edge pixel is not repeated.
export function mirror(index, size) {
  if (size === 1) return 0;
  const period = 2 * (size - 1);
  const folded = ((index % period) + period) % period;
  return Math.min(folded, period - folded);
}

// As few tiles as `tile` allows along a side of the image, each as small as that number of tiles can be.
export function plan({ smallest, step, halo }, size, tile) {
  const starts = (input) => {
    const output = input - 2 * halo;
    const distance = Math.floor(output / step) * step;
    const count = distance ? Math.max(1, Math.ceil((size - output) / distance) + 1) : 0;
    return Array.from({ length: count }, (_, number) => number * distance);
  };
  const wanted = Math.max(step, Math.min(tile, size)) + 2 * halo;
  let input = smallest + Math.max(0, Math.ceil((wanted - smallest) / step)) * step;
  while (input - step >= smallest && starts(input - step).length === starts(input).length) input -= step;
  const at = starts(input);
  const parts = at.map((start, number) => [start, at[number + 1] ?? size]);
  return { input, output: input - 2 * halo, halo, parts };
}

// The probability of class 1 at every pixel, of a network with two classes. `run` gives its output, both
// classes one after the other, for a tile of some height and width; `onTile` is awaited before each tile.
export async function predictTiled(run, geometry, { width, height, pixels }, tile, onTile = () => {}) {
  const [rows, columns] = [plan(geometry, height, tile), plan(geometry, width, tile)];
  const tiles = rows.parts.flatMap(([top, bottom]) =>
    columns.parts.map(([left, right]) => ({ top, bottom, left, right, rows, columns })),
  );
  const probabilities = new Float32Array(width * height);
  for (const [number, part] of tiles.entries()) {
    await onTile(part, number + 1, tiles.length);
    const cut = new Float32Array(rows.input * columns.input);
    for (let y = 0; y < rows.input; y++) {
      const row = mirror(part.top - rows.halo + y, height) * width;
      for (let x = 0; x < columns.input; x++) {
        cut[y * columns.input + x] = pixels[row + mirror(part.left - columns.halo + x, width)];
      }
    }
    const foreground = (await run(cut, rows.input, columns.input)).subarray(rows.output * columns.output);
    for (let y = part.top; y < part.bottom; y++) {
      const start = (y - part.top) * columns.output;
      probabilities.set(foreground.subarray(start, start + part.right - part.left), y * width + part.left);
    }
  }
  return probabilities;
}

// The objects of label_instances: above 0.5, small holes filled, connected by edges, cut at necks, specks
// dropped, numbered in the order of their first pixels.
export function labelInstances(probabilities, width, height, options = {}) {
  const { minSize = 10, maxHole = 30, splitDepth = 1 } = options;
  const mask = Uint8Array.from(probabilities, (value) => (value > 0.5 ? 1 : 0));
  for (const { pixels, atEdge } of components(mask, width, height, 0, true)) {
    if (pixels.length <= maxHole && !atEdge) for (const pixel of pixels) mask[pixel] = 1;
  }
  const labels = new Int32Array(width * height);
  for (const [index, { pixels }] of components(mask, width, height, 1, false).entries()) {
    for (const pixel of pixels) labels[pixel] = index + 1;
  }
  if (splitDepth !== null) cutAtNecks(labels, width, height, splitDepth);
  return numberByFirstPixel(labels, minSize);
}

// Renumbers labels 1, 2, … in the order of their first pixels; those of too few pixels become 0.
function numberByFirstPixel(labels, minSize) {
  const sizes = new Map();
  for (const label of labels) sizes.set(label, (sizes.get(label) ?? 0) + 1);
  const numbers = new Map([[0, 0]]);
  let count = 0;
  const numbered = labels.map((label) => {
    if (!numbers.has(label)) numbers.set(label, sizes.get(label) >= minSize ? ++count : 0);
    return numbers.get(label);
  });
  return { labels: numbered, count };
}

// The connected sets of pixels whose mask has a value, in the order of their first pixels; by edges alone,
// or also diagonally.
function components(mask, width, height, value, diagonal) {
  const seen = new Uint8Array(mask.length);
  const found = [];
  for (let first = 0; first < mask.length; first++) {
    if (mask[first] !== value || seen[first]) continue;
    const pixels = [first];
    let atEdge = false;
    seen[first] = 1;
    for (let done = 0; done < pixels.length; done++) {
      const [y, x] = [Math.floor(pixels[done] / width), pixels[done] % width];
      atEdge ||= y === 0 || x === 0 || y === height - 1 || x === width - 1;
      for (const next of around(pixels[done], width, height)) {
        const across = Math.floor(next / width) !== y && next % width !== x;
        if ((across && !diagonal) || mask[next] !== value || seen[next]) continue;
        seen[next] = 1;
        pixels.push(next);
      }
    }
    found.push({ pixels, atEdge });
  }
  return found;
}
