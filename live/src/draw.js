// @ts-check
// Draws a scene as `Scene.image` does: the same places, sizes, colours, clutter and grain, since all of them come from
// the same random numbers. Shapes are filled pixel by pixel on a grid twice as fine, so only some edges differ.
import {Random} from './random.js';

/** @typedef {[number, number, number]} Colour */

const clip = value => Math.max(0, Math.min(255, value));
const even = x => { const low = Math.floor(x), rest = x - low; return rest === 0.5 ? low + low % 2 : Math.round(x); };
const shade = (colour, amount) => colour.map(c => clip(even(c * amount)));
const EDGE = [28, 28, 32];

class Canvas {
  constructor(size) {
    this.size = size;
    this.pixels = new Uint8Array(3 * size * size);
    this.mask = null;          // where it is set, only its pixels are painted
  }

  /** Paint one row from x0 to x1, both included */
  span(y, x0, x1, colour) {
    if (y < 0 || y >= this.size) return;
    for (let x = Math.max(0, x0); x <= Math.min(this.size - 1, x1); x++) {
      const i = y * this.size + x;
      if (this.mask && !this.mask[i]) continue;
      if (colour) this.pixels.set(colour, 3 * i);
    }
  }

  box([x0, y0, x1, y1], colour) { for (let y = y0; y <= y1; y++) this.span(y, x0, x1, colour); }

  /** A frame inside the box. */
  frame([x0, y0, x1, y1], width, colour) {
    this.box([x0, y0, x1, y0 + width - 1], colour);
    this.box([x0, y1 - width + 1, x1, y1], colour);
    this.box([x0, y0, x0 + width - 1, y1], colour);
    this.box([x1 - width + 1, y0, x1, y1], colour);
  }

  /** A polygon of whole-numbered points: [x, y, x, y, ...] */
  polygon(points, colour) { spansOf(points).forEach(([y, x0, x1]) => this.span(y, x0, x1, colour)); }

  /** An ellipse in a box, or with a `width` only its border; `keep` says which rows count */
  ellipse([x0, y0, x1, y1], colour, width = 0, keep = y => true) {
    const middle = (x0 + x1) / 2, centre = (y0 + y1) / 2, a = (x1 - x0) / 2, b = (y1 - y0) / 2;
    for (let y = y0; y <= y1; y++) {
      if (!keep(y)) continue;
      const outer = reach(y - centre, a, b), inner = width ? hollow(y - centre, a - width + 1, b - width + 1) : -1;
      const left = Math.ceil(middle - outer), right = Math.floor(middle + outer);
      if (inner < 0) { this.span(y, left, right, colour); continue; }
      this.span(y, left, Math.ceil(middle - inner) - 1, colour);
      this.span(y, Math.floor(middle + inner) + 1, right, colour);
    }
  }

  /** The lower half of an ellipse, with a border */
  chord([x0, y0, x1, y1], fill, edge, pen) {
    const centre = (y0 + y1) / 2, lower = y => y >= centre;
    this.ellipse([x0, y0, x1, y1], fill, 0, lower);
    this.ellipse([x0, y0, x1, y1], edge, pen, lower);
    this.box([x0, Math.ceil(centre), x1, Math.floor(centre + pen)], edge);
  }

  /** A polygon with a border inside it */
  bordered(points, fill, edge, pen) {
    this.polygon(points, fill);
    this.mask = new Uint8Array(this.size * this.size);
    for (const [y, x0, x1] of spansOf(points)) {
      const row = y * this.size;
      if (y >= 0 && y < this.size) this.mask.fill(1, row + Math.max(0, x0), row + Math.min(this.size, x1 + 1));
    }
    outline(this, points, 2 * pen - 1, edge, true);
    this.mask = null;
  }

  /** A straight stroke of some width */
  stroke(x0, y0, x1, y1, width, colour) {
    const length = Math.hypot(x1 - x0, y1 - y0);
    if (!length) return;
    const half = (width - 1) / 2, down = Math.ceil(half - 0.5) / length, up = Math.floor(half + 0.5) / length;
    const toZero = x => x < 0 ? -Math.ceil(-x - 0.5) : Math.ceil(x - 0.5), away = x => x < 0 ? -Math.floor(0.5 - x) : Math.floor(x + 0.5);
    const dx = x1 - x0, dy = y1 - y0;
    const [ax, bx, ay, by] = [toZero(down * dy), away(up * dy), toZero(down * dx), away(up * dx)];
    this.polygon([x0 - ax, y0 + by, x1 - ax, y1 + by, x1 + bx, y1 - ay, x0 + bx, y0 - ay], colour);
  }

  /** Half the size, each pixel the average of four */
  halved() {
    const n = this.size / 2, out = new Uint8Array(3 * n * n), p = this.pixels, row = 3 * this.size;
    for (let y = 0; y < n; y++) {
      for (let x = 0; x < n; x++) {
        for (let c = 0; c < 3; c++) {
          const i = 2 * y * row + 6 * x + c;
          out[3 * (y * n + x) + c] = (p[i] + p[i + 3] + p[i + row] + p[i + row + 3] + 2) >> 2;
        }
      }
    }
    return out;
  }
}

// Half the width of an ellipse at a height, or -1
const wide = (height, a, b) => height > b || a <= 0 ? -1 : b ? a * Math.sqrt(1 - (height / b) ** 2) : a;

// How far it reaches to both sides: a pixel belongs to it that is inside when moved half a pixel towards the centre,
// along its row or along its column
function reach(y, a, b) {
  const along = wide(Math.abs(y), a, b);
  return Math.max(along < 0 ? -1 : along + 0.5, wide(Math.max(0, Math.abs(y) - 0.5), a, b));
}

// How far the hollow of a border reaches: its pixels stay inside when moved half a pixel outwards
const hollow = (y, a, b) => Math.min(wide(Math.abs(y), a, b) - 0.5, wide(Math.abs(y) + 0.5, a, b));

// The rows that a polygon covers: [y, x0, x1], its border included
function spansOf(points) {
  const n = points.length / 2, spans = [], edges = [];
  for (let i = 0; i < n; i++) {
    const j = (i + 1) % n, [x0, y0, x1, y1] = [points[2 * i], points[2 * i + 1], points[2 * j], points[2 * j + 1]];
    if (y0 === y1) spans.push([y0, Math.min(x0, x1), Math.max(x0, x1)]);
    else edges.push(y0 < y1 ? [x0, y0, x1, y1] : [x1, y1, x0, y0]);
  }
  const low = Math.min(...edges.map(edge => edge[1])), high = Math.max(...edges.map(edge => edge[3]));
  for (let y = low; y <= high; y++) {
    for (const last of [false, true]) {       // just above the row, and just below: corners count on both sides
      const xs = edges.filter(([, y0, , y1]) => last ? y0 <= y && y < y1 : y0 < y && y <= y1)
        .map(([x0, y0, x1, y1]) => x0 + (x1 - x0) * (y - y0) / (y1 - y0)).sort((a, b) => a - b);
      for (let i = 0; i + 1 < xs.length; i += 2) spans.push([y, Math.ceil(xs[i] - 0.5), Math.floor(xs[i + 1] + 0.5)]);
    }
  }
  return spans;
}

const whole = values => values.map(Math.trunc);

// One kind of thing around a centre; the shapes are those of drawings.json
function drawThing(canvas, tables, kind, colour, [cx, cy], radius) {
  const tints = {...tables.tints, c: colour, d: shade(colour, 0.72), l: shade(colour, 1.25)};
  const pen = Math.max(1, even(radius / 16));
  for (const [shape, tint, ...xy] of tables.drawings[kind]) {
    const points = xy.map((value, i) => (i % 2 ? cy : cx) + value * radius), fill = tints[tint];
    const box = whole(points.length === 4 ? points : [0, 0, 0, 0]), pairs = whole(points);
    if (shape === 'box') {
      canvas.box(box, fill);
      canvas.frame(box, pen, EDGE);
    } else if (shape === 'oval' || shape === 'wheel') {
      canvas.ellipse(box, fill);
      canvas.ellipse(box, EDGE, pen);
      if (shape === 'wheel') {
        const inset = (points[2] - points[0]) * 0.3;
        canvas.ellipse(whole([points[0] + inset, points[1] + inset, points[2] - inset, points[3] - inset]), tints.m);
      }
    } else if (shape === 'ring') {
      canvas.ellipse(box, fill, even(radius / 6));
    } else if (shape === 'chord') {
      canvas.chord(box, fill, EDGE, pen);
    } else if (shape === 'poly') {
      canvas.bordered(pairs, fill, EDGE, pen);
    } else if (shape === 'line') {
      outline(canvas, pairs, even(radius / 8), fill, false);
    }
  }
}

function outline(canvas, points, width, colour, closed) {
  const n = points.length / 2, half = width / 2;
  for (let i = 0; i + (closed ? 0 : 1) < n; i++) {
    const j = (i + 1) % n, [x, y] = [points[2 * j], points[2 * j + 1]];
    canvas.stroke(points[2 * i], points[2 * i + 1], x, y, width, colour);
    if (!closed && i + 2 < n) canvas.ellipse(whole([x - half, y - half, x + half, y + half]), colour);
  }
}

function drawGround(canvas, tables, context, rng) {
  const base = tables.grounds[context].map(c => c + rng.randint(-14, 14)), size = canvas.size;
  const dark = shade(base, 0.9), light = shade(base, 1.07), step = Math.floor(size / 6);
  canvas.box([0, 0, size, size], base);
  if (context === 'table') {
    for (let y = 0; y < size; y += step) canvas.stroke(0, y, size, y, Math.floor(size / 110), shade(base, 0.8));
  } else if (context === 'desk') {
    rounded(canvas, [0.05, 0.05, 0.95, 0.95].map(share => size * share), size * 0.04, light, dark, Math.floor(size / 80));
  } else if (context === 'park') {
    for (let i = 0; i < 70; i++) {
      const x = rng.below(size), y = rng.below(size), tip = x + rng.randint(-4, 4);
      canvas.stroke(x, y, tip, y - Math.floor(size / 30), Math.max(1, Math.floor(size / 150)), shade(base, 0.82));
    }
  } else if (context === 'street') {
    for (let y = Math.floor(step / 2); y < size; y += 2 * step) {
      for (let x = 0; x < size; x += step) canvas.box(whole([x, y, x + step * 0.55, y + Math.floor(size / 60)]), light);
    }
  } else {
    for (let x = 0; x < size; x += step) canvas.box([x, 0, x + Math.floor(step / 2), size], light);
  }
  for (let i = rng.randint(3, 9); i > 0; i--) {
    const x = rng.below(size), y = rng.below(size);
    const r = Math.floor(size / 90) + rng.below(Math.max(1, Math.floor(size / 120)));
    canvas.ellipse([x - r, y - r, x + r, y + r], shade(base, rng.uniform(0.6, 1.2)));
  }
}

// A rectangle with round corners, and a border inside it
function rounded(canvas, box, radius, fill, edge, pen) {
  const paint = ([x0, y0, x1, y1], r, colour) => {
    for (let y = y0; y <= y1; y++) {
      const height = Math.max(y0 + r - y, y - (y1 - r)), inset = height > 0 ? Math.ceil(r - reach(height, r, r)) : 0;
      canvas.span(y, x0 + inset, x1 - inset, colour);
    }
  };
  const [x0, y0, x1, y1] = box.map(Math.round), r = Math.trunc(2 * radius) / 2;
  paint([x0, y0, x1, y1], r, edge);
  paint([x0 + pen, y0 + pen, x1 - pen, y1 - pen], r - pen, fill);
}

/**
 * The picture of a scene: RGB bytes, 224 by 224
 * @param {any} tables
 * @param {import('./world.js').Scene} scene
 */
export async function drawScene(tables, scene, size = 224) {
  const canvas = new Canvas(2 * size), rng = await Random.of(`${scene.seed}/picture`), cell = 2 * size / 3;
  drawGround(canvas, tables, scene.context, rng);
  const shifted = i => i + 0.5 + rng.uniform(-0.09, 0.09);
  for (const {kind, colour, place} of scene.things) {
    const cx = shifted(place % 3) * cell, cy = shifted(Math.floor(place / 3)) * cell;
    const tint = tables.colours[colour].map(c => clip(c + rng.randint(-14, 14)));
    drawThing(canvas, tables, kind, tint, [cx, cy], cell * 0.4 * rng.uniform(0.82, 1.04));
  }
  const picture = canvas.halved(), grain = rng.bytes(picture.length), share = Math.fround(9 / 255);
  for (let i = 0; i < picture.length; i++) picture[i] = Math.trunc(Math.fround(picture[i] + Math.fround(share * (grain[i] - picture[i]))));
  return picture;
}

/** One thing on a plain ground, for a button: RGB bytes, `size` by `size` */
export function drawIcon(tables, kind, colour, size = 40) {
  const canvas = new Canvas(2 * size);
  canvas.box([0, 0, 2 * size, 2 * size], [232, 232, 228]);
  drawThing(canvas, tables, kind, tables.colours[colour], [size, size], 0.86 * size);
  return canvas.halved();
}
