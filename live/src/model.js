// @ts-check
// The model: a tower that sees, and a language model that goes on from what it has read. What has been read is kept in
// a cache, so that a token costs one short step.

/** @typedef {{past: any[], length: number, logits: Float32Array, attention: Float32Array[]}} Read */
/** @typedef {{graph: Uint8Array, weights: Uint8Array}} Part a graph, and its weights in float16 */

export const PROMPT = 'Describe this image.', END = 2;
const LAYERS = 4, HEADS = 6, WIDTH = 32, PATCHES = 36, VOCABULARY = 440, SIDE = 96;
const numbered = (name, n) => Array.from({length: n}, (_, i) => `${name}_${i}`);
const PAST = numbered('past', 2 * LAYERS), PRESENT = numbered('present', 2 * LAYERS), ATTENTION = numbered('attention', LAYERS);

/** How much of the control, of stage 1, and of what stage 2 adds */
export const gains = (adapter, scale) => ({control: [scale, 0, 0], stage1: [0, scale, 0], stage2: [0, scale, scale]})[adapter] ?? [0, 0, 0];

/** @param {ArrayLike<number>} logits */
export function logSoftmax(logits, start = 0, n = VOCABULARY) {
  let top = -Infinity, sum = 0;
  for (let i = 0; i < n; i++) top = Math.max(top, logits[start + i]);
  for (let i = 0; i < n; i++) sum += Math.exp(logits[start + i] - top);
  const log = top + Math.log(sum), values = new Float64Array(n);
  for (let i = 0; i < n; i++) values[i] = logits[start + i] - log;
  return values;
}

/** Float16 numbers as float32 */
export function widen(bytes) {
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2), values = new Float32Array(halves.length);
  const table = Float32Array.from({length: 65536}, (_, i) => {
    const sign = i >> 15 ? -1 : 1, power = i >> 10 & 31, rest = (i & 1023) / 1024;
    return sign * (power === 31 ? rest ? NaN : Infinity : power ? 2 ** (power - 15) * (1 + rest) : 2 ** -14 * rest);
  });
  for (let i = 0; i < halves.length; i++) values[i] = table[halves[i]];
  return values;
}

const best = values => values.reduce((top, value, i) => value > values[top] ? i : top, 0);

export class Model {
  /** @type {any} */ ort;
  /** @type {any} */ tower;
  /** @type {any} */ language;
  /** @type {import('./tokens.js').Tokens} */ tokens;

  /**
   * @param {any} ort onnxruntime
   * @param {Part | Promise<Part>} see
   * @param {Part | Promise<Part>} speak
   * @param {import('./tokens.js').Tokens | Promise<import('./tokens.js').Tokens>} tokens
   */
  static async load(ort, see, speak, tokens) {
    // The graphs hold nothing that could be simplified, so the search for it is left out
    const session = async (name, part) => {
      const {graph, weights} = await part, data = new Uint8Array(widen(weights).buffer);
      return ort.InferenceSession.create(graph, {executionProviders: ['wasm'], graphOptimizationLevel: 'disabled', logSeverityLevel: 3,
        externalData: [{path: `${name}.bin`, data}]});
    };
    return new Model(ort, await session('see', see), await session('speak', speak), await tokens);
  }

  constructor(ort, tower, language, tokens) {
    this.ort = ort;
    this.tower = tower;
    this.language = language;
    this.tokens = tokens;
  }

  /** The picture's features, from what the tower reads. @param {Float32Array} values */
  async see(values) {
    const found = await this.tower.run({pixels: new this.ort.Tensor('float32', values, [1, 3, SIDE, SIDE])});
    return found.features;
  }

  /**
   * Read some tokens behind what has been read: the logits from place `start` on, and where it looks if asked for
   * @returns {Promise<Read>}
   */
  async read(features, ids, scales, {before = /** @type {Read | null} */ (null), start = ids.length - 1, look = false} = {}) {
    const {Tensor} = this.ort, wanted = ['logits', ...PRESENT, ...look ? ATTENTION : []];
    const feeds = {features, ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), [ids.length]),
      gains: new Tensor('float32', Float32Array.from(scales), [3]), start: new Tensor('int64', [BigInt(start)], [1])};
    PAST.forEach((name, i) => { feeds[name] = before?.past[i] ?? new Tensor('float32', new Float32Array(0), [1, HEADS, 0, WIDTH]); });
    const out = await this.language.run(feeds, wanted);
    return {past: PRESENT.map(name => out[name]), length: (before?.length ?? 0) + ids.length, logits: out.logits.data,
      attention: look ? ATTENTION.map(name => out[name].data) : []};
  }

  /** Token ids of the question, the picture's places included */
  question(text = PROMPT) {
    return this.tokens.encode(this.tokens.prompt(text)).flatMap(id => id === 4 ? Array(PATCHES).fill(4) : [id]);
  }

  /** Token ids of an answer, behind the question */
  answer(text, question = PROMPT) {
    const before = this.tokens.encode(this.tokens.prompt(question));
    return text.trim() ? this.tokens.encode(`${this.tokens.prompt(question)} ${text.trim()}`).slice(before.length) : [];
  }

  /** The likeliest answer, token by token: {id, text so far} */
  async * write(features, scales, {question = PROMPT, longest = 128} = {}) {
    const ids = [];
    let read = await this.read(features, this.question(question), scales);
    while (ids.length < longest) {
      const id = best(read.logits.subarray(read.logits.length - VOCABULARY));
      if (id === END) return;
      ids.push(id);
      yield {id, text: this.tokens.decode(ids).trim()};
      read = await this.read(features, [id], scales, {before: read});
    }
  }

  /** The whole of what `write` writes */
  async describe(features, scales, options = {}) {
    let text = '';
    for await (const step of this.write(features, scales, options)) text = step.text;
    return text;
  }

  /** What could come next behind the beginning of an answer: every token's log-probability, and where it is looked */
  async next(features, scales, prefix, question = PROMPT) {
    const ids = [...this.question(question), ...this.answer(prefix, question)], read = await this.read(features, ids, scales, {look: true});
    return {logps: logSoftmax(read.logits, read.logits.length - VOCABULARY), look: this.look(read, ids)};
  }

  // The attention of the last token on the picture, averaged over heads and layers: 36 shares
  look({attention, length}, ids) {
    const first = ids.indexOf(4), shares = Array(PATCHES).fill(0);
    for (const layer of attention) {
      const rows = layer.length / (HEADS * length);
      for (let head = 1; head <= HEADS; head++) {
        const last = (head * rows - 1) * length + first;
        for (let i = 0; i < PATCHES; i++) shares[i] += layer[last + i] / (LAYERS * HEADS);
      }
    }
    return shares;
  }

  /** The log-probability of each token of an answer, its end included; and the likeliest token at each place */
  async score(features, scales, text, question = PROMPT) {
    const before = this.question(question), ids = [...this.answer(text, question), END];
    const {logits} = await this.read(features, [...before, ...ids.slice(0, -1)], scales, {start: before.length - 1});
    const rows = ids.map((_, i) => logSoftmax(logits, i * VOCABULARY));
    return {ids, logps: ids.map((id, i) => rows[i][id]), likeliest: rows.map(best), at: (i, id) => rows[i][id]};
  }

  /** The words of the highest probability: [[word, probability], ...] */
  top(logps, k = 8) {
    return [...logps.keys()].sort((a, b) => logps[b] - logps[a]).slice(0, k)
      .map(id => [this.tokens.decode([id]).trim() || this.tokens.words[id], Math.exp(logps[id])]);
  }
}
