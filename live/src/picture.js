// @ts-check
// From a picture to what the tower reads, as the processor does it; and the noise of the course, in both its spaces.
import {normal} from './random.js';

export const SIZE = 224;      // of a picture, in pixels
const SIDE = 96;              // of what the tower reads

const clip8 = value => Math.max(0, Math.min(255, value));

// Bicubic weights with antialiasing, in whole numbers: for each output pixel its first input pixel and the weights
function weightsOf(from, to) {
  const scale = from / to, wide = Math.max(1, scale), rows = [];
  const cubic = x => {
    const a = Math.abs(x);
    return a < 1 ? (1.5 * a - 2.5) * a * a + 1 : a < 2 ? ((-0.5 * a + 2.5) * a - 4) * a + 2 : 0;
  };
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale, first = Math.max(0, Math.trunc(centre - 2 * wide + 0.5)), weights = [];
    for (let x = first; x < Math.min(from, Math.trunc(centre + 2 * wide + 0.5)); x++) weights.push(cubic((x + 0.5 - centre) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    rows.push({first, weights: weights.map(w => Math.trunc(w / sum * 4194304 + (w < 0 ? -0.5 : 0.5)))});
  }
  return rows;
}

/** RGB bytes of a square picture at another size, as Pillow resizes with BICUBIC: first along rows, then along columns */
export function resize(pixels, from, to) {
  const rows = weightsOf(from, to), narrow = new Uint8Array(3 * from * to), out = new Uint8Array(3 * to * to);
  const mix = (source, start, step, weights) => {
    let sum = 2097152;
    for (let k = 0; k < weights.length; k++) sum += source[start + k * step] * weights[k];
    return clip8(Math.floor(sum / 4194304));
  };
  rows.forEach(({first, weights}, i) => {
    for (let y = 0; y < from; y++) {
      for (let c = 0; c < 3; c++) narrow[3 * (y * to + i) + c] = mix(pixels, 3 * (y * from + first) + c, 3, weights);
    }
  });
  rows.forEach(({first, weights}, i) => {
    for (let x = 0; x < to; x++) {
      for (let c = 0; c < 3; c++) out[3 * (i * to + x) + c] = mix(narrow, 3 * (first * to + x) + c, 3 * to, weights);
    }
  });
  return out;
}

/** What the tower reads of a picture: 3 x 96 x 96 numbers */
export function process(pixels, {mean, std}) {
  const small = resize(pixels, Math.sqrt(pixels.length / 3), SIDE), n = SIDE * SIDE, values = new Float32Array(3 * n);
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < n; i++) values[c * n + i] = (Math.fround(small[3 * i + c] * (1 / 255)) - mean[c]) / std[c];
  }
  return values;
}

/** The picture that such numbers are of: RGB bytes, 96 by 96 */
export function shown(values, {mean, std}) {
  const n = values.length / 3, pixels = new Uint8Array(values.length);
  for (let c = 0; c < 3; c++) for (let i = 0; i < n; i++) pixels[3 * i + c] = Math.round(255 * Math.max(0, Math.min(1, values[c * n + i] * std[c] + mean[c])));
  return pixels;
}

// x * picture + e * noise, for numbers of which `kept` is left; channel by channel, as the noise is drawn
async function mixed(values, kept, id, step, seed) {
  const noise = await normal(values.length, id, step, seed), picture = Math.fround(Math.sqrt(kept)), share = Math.fround(Math.sqrt(1 - kept));
  return values.map((value, i) => Math.fround(picture * value) + Math.fround(share * noise[i]));
}

const even = x => { const low = Math.floor(x), rest = x - low; return rest === 0.5 ? low + low % 2 : Math.round(x); };

/**
 * The noisy values that the tower reads, and the noisy picture for the reader
 * @param {Uint8Array} pixels RGB bytes
 * @param {{step: number, seed: number, id: string, space: string, overflow: string}} noise
 * @param {any} tables `kept`: of each step; `mean`, `std`: of the processor
 */
export async function noisy(pixels, {step, seed, id, space, overflow}, tables) {
  const kept = tables.kept[step];
  if (space === 'processed') {
    const values = await mixed(process(pixels, tables), kept, id, step, seed);
    return {values, picture: shown(values, tables)};
  }
  const n = pixels.length / 3, floats = new Float32Array(pixels.length);
  for (let i = 0; i < n; i++) for (let c = 0; c < 3; c++) floats[c * n + i] = pixels[3 * i + c] / 255;
  const x = await mixed(floats, kept, id, step, seed);
  const bytes = make => {
    const out = new Uint8Array(pixels.length);
    for (let i = 0; i < n; i++) for (let c = 0; c < 3; c++) out[3 * i + c] = make(x[c * n + i]);
    return out;
  };
  const clamped = bytes(value => even(Math.fround(Math.max(0, Math.min(1, value)) * 255)));
  if (overflow === 'wrap') {
    const picture = bytes(value => Math.trunc(Math.fround(value * 255)) & 255);
    return {values: process(picture, tables), picture};
  }
  if (overflow === 'clamp') return {values: process(clamped, tables), picture: clamped};
  // no overflow: squeezed into 0..1, processed, and stretched again
  let low = 0, high = 1;
  for (const value of x) { low = Math.min(low, value); high = Math.max(high, value); }
  const squeezed = process(bytes(value => even(Math.max(0, Math.min(1, (value - low) / (high - low))) * 255)), tables);
  const values = squeezed.map((value, i) => {
    const c = Math.floor(i / (SIDE * SIDE)), black = -tables.mean[c] / tables.std[c], white = (1 - tables.mean[c]) / tables.std[c];
    return black + (high - low) * (value - black) + low * (white - black);
  });
  return {values, picture: clamped};
}
