// Cuts touching objects apart at their necks: tinyunet/prediction/necks.py, which explains it, step by step.

// Cuts objects (4-connected, numbered from 1; 0 is the background) in place, where a neck is deeper than
// `depth` pixels of distance to the background.
export function cutAtNecks(objects, width, height, depth) {
  if (objects.every((label) => label !== 0)) return; // there are no distances to a background
  const distance = squaredDistance(objects, width, height);
  leaveOnlySeeds(objects, distance, width, height, depth);
  grow(objects, distance, width, height);
}

// Each pixel's squared distance to the nearest background pixel.
export function squaredDistance(objects, width, height) {
  const far = height + width;
  const inColumn = new Int32Array(objects.length); // to the nearest 0 of the column; far if it has none
  for (let at = 0; at < objects.length; at++) {
    const above = at < width ? far : inColumn[at - width];
    inColumn[at] = objects[at] ? Math.min(above + 1, far) : 0;
  }
  for (let at = objects.length - width - 1; at >= 0; at--) {
    inColumn[at] = Math.min(inColumn[at], inColumn[at + width] + 1);
  }
  const squared = new Int32Array(objects.length);
  for (let row = 0; row < objects.length; row += width) {
    lowestParabolas(inColumn.subarray(row, row + width), squared.subarray(row, row + width));
  }
  return squared;
}

// At each j, the lowest of the parabolas (j - k)² + heights[k]².
function lowestParabolas(heights, lowest) {
  const value = (k, j) => (j - k) ** 2 + heights[k] ** 2;
  const column = []; // those that are the lowest somewhere
  const start = []; // and from which pixel on
  for (let k = 0; k < heights.length; k++) {
    while (column.length && value(column.at(-1), start.at(-1)) > value(k, start.at(-1))) {
      column.pop();
      start.pop();
    }
    let from = 0;
    if (column.length) {
      const before = column.at(-1);
      const rise = k * k - before * before + heights[k] ** 2 - heights[before] ** 2;
      from = Math.floor(rise / (2 * (k - before))) + 1;
    }
    if (from < heights.length) {
      column.push(k);
      start.push(from);
    }
  }
  for (let j = 0, now = 0; j < heights.length; j++) {
    while (now + 1 < start.length && start[now + 1] <= j) now++;
    lowest[j] = value(column[now], j);
  }
}

// Erases all of the objects but their seeds, which get labels of their own.
function leaveOnlySeeds(objects, distance, width, height, depth) {
  const count = objects.reduce((most, label) => Math.max(most, label), 0);
  const summit = new Int32Array(count + 1);
  objects.forEach((label, at) => (summit[label] = Math.max(summit[label], distance[at])));
  const searched = new Int32Array(objects.length); // the number of the search, negative if it found no seed
  let search = 0;
  for (let first = 0; first < objects.length; first++) {
    const lowest = Math.sqrt(distance[first]) - depth;
    if (!(lowest > 1) || searched[first] !== 0) continue;
    searched[first] = ++search;
    const { reached, isSeed } = searchFrom(first, lowest, search, searched, distance, width, height);
    if (!isSeed) for (const at of reached) searched[at] = -search;
  }
  objects.forEach((label, at) => {
    if (Math.sqrt(summit[label]) - depth > 1) objects[at] = searched[at] > 0 ? count + searched[at] : 0;
  });
}

// The pixels that are connected to a summit above a level; it is no seed if one of them is higher.
function searchFrom(first, lowest, search, searched, distance, width, height) {
  const reached = [first];
  let isSeed = true;
  for (let done = 0; done < reached.length && isSeed; done++) {
    for (const next of around(reached[done], width, height)) {
      if (Math.sqrt(distance[next]) < lowest || searched[next] === search) continue;
      if (distance[next] > distance[first] || searched[next] > 0) {
        isSeed = false;
        continue;
      }
      searched[next] = search;
      reached.push(next);
    }
  }
  return { reached, isSeed };
}

// The places of a pixel and its eight neighbours, row by row.
export function around(at, width, height) {
  const [y, x] = [Math.floor(at / width), at % width];
  const places = [];
  for (let i = Math.max(y - 1, 0); i <= Math.min(y + 1, height - 1); i++) {
    for (let j = Math.max(x - 1, 0); j <= Math.min(x + 1, width - 1); j++) places.push(i * width + j);
  }
  return places;
}

// Extends the seeds to all pixels that have a distance, the highest first.
function grow(labels, distance, width, height) {
  const heap = new Heap();
  labels.forEach((label, at) => label && heap.push({ level: distance[at], time: 0, at }));
  let time = 0;
  while (heap.items.length) {
    const { level, at } = heap.pop();
    const x = at % width;
    const next = [];
    if (at >= width) next.push(at - width);
    if (x > 0) next.push(at - 1);
    if (x < width - 1) next.push(at + 1);
    if (at < (height - 1) * width) next.push(at + width);
    for (const to of next) {
      if (!distance[to] || labels[to]) continue;
      labels[to] = labels[at];
      heap.push({ level: Math.min(distance[to], level), time: ++time, at: to });
    }
  }
}

// The highest item first, and among those of one height the one that came first. Seeds all come at once: the
// steps of push and pop decide among them, so they are those of Python.
class Heap {
  items = [];

  push(item) {
    let child = this.items.length;
    while (child > 0) {
      const parent = (child - 1) >> 1;
      if (!comesBefore(item, this.items[parent])) break;
      this.items[child] = this.items[parent];
      child = parent;
    }
    this.items[child] = item;
  }

  pop() {
    const first = this.items[0];
    const last = this.items.pop();
    const size = this.items.length;
    let parent = 0;
    while (2 * parent + 1 < size) {
      let child = 2 * parent + 1;
      const sibling = Math.min(child + 1, size - 1);
      if (comesBefore(this.items[sibling], this.items[child])) child = sibling;
      if (!comesBefore(this.items[child], last)) break;
      this.items[parent] = this.items[child];
      parent = child;
    }
    if (size) this.items[parent] = last;
    return first;
  }
}

const comesBefore = (a, b) => a.level > b.level || (a.level === b.level && a.time < b.time);
