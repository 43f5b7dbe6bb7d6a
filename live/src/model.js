// @ts-check
// The model: a tower that sees, and a language model that goes on from what it has read. What has been read is kept in
// a cache, so that a token costs one short step.

/** @typedef {{past: any, length: number, logits: Float32Array, attention: Float32Array}} Read */

export const PROMPT = 'Describe this image.', END = 2;
const LAYERS = 4, HEADS = 6, WIDTH = 32, PATCHES = 36, VOCABULARY = 440, SIDE = 96;

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

const best = values => values.reduce((top, value, i) => value > values[top] ? i : top, 0);

export class Model {
  /** @type {any} */ ort;
  /** @type {any} */ tower;
  /** @type {any} */ language;
  /** @type {import('./tokens.js').Tokens} */ tokens;

  /**
   * @param {any} ort onnxruntime
   * @param {Uint8Array} see
   * @param {Uint8Array} speak
   * @param {import('./tokens.js').Tokens} tokens
   */
  static async load(ort, see, speak, tokens) {
    const options = {executionProviders: ['wasm'], graphOptimizationLevel: 'all'};
    return new Model(ort, await ort.InferenceSession.create(see, options), await ort.InferenceSession.create(speak, options), tokens);
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

  /** Read some tokens behind what has been read. @returns {Promise<Read>} */
  async read(features, ids, scales, before = null) {
    const {Tensor} = this.ort, past = before?.past ?? new Tensor('float32', new Float32Array(0), [2 * LAYERS, HEADS, 0, WIDTH]);
    const out = await this.language.run({features, past, ids: new Tensor('int64', BigInt64Array.from(ids, BigInt), [ids.length]),
      gains: new Tensor('float32', Float32Array.from(scales), [3])});
    return {past: out.present, length: (before?.length ?? 0) + ids.length, logits: out.logits.data, attention: out.attention.data};
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
      read = await this.read(features, [id], scales, read);
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
    const ids = [...this.question(question), ...this.answer(prefix, question)], read = await this.read(features, ids, scales);
    return {logps: logSoftmax(read.logits, read.logits.length - VOCABULARY), look: this.look(read, ids)};
  }

  // The attention of the last token on the picture, averaged over heads and layers: 36 shares
  look(read, ids) {
    const first = ids.indexOf(4), shares = new Float64Array(PATCHES);
    for (let row = 0; row < LAYERS * HEADS; row++) for (let i = 0; i < PATCHES; i++) shares[i] += read.attention[row * read.length + first + i] / (LAYERS * HEADS);
    return [...shares];
  }

  /** The log-probability of each token of an answer, its end included; and the likeliest token at each place */
  async score(features, scales, text, question = PROMPT) {
    const start = this.question(question), ids = [...this.answer(text, question), END];
    const {logits} = await this.read(features, [...start, ...ids.slice(0, -1)], scales), logps = [], likeliest = [];
    ids.forEach((id, i) => {
      const at = logSoftmax(logits, (start.length - 1 + i) * VOCABULARY);
      logps.push(at[id]);
      likeliest.push(best(at));
    });
    return {ids, logps, likeliest, at: (i, id) => logSoftmax(logits, (start.length - 1 + i) * VOCABULARY)[id]};
  }

  /** The words of the highest probability: [[word, probability], ...] */
  top(logps, k = 8) {
    return [...logps.keys()].sort((a, b) => logps[b] - logps[a]).slice(0, k)
      .map(id => [this.tokens.decode([id]).trim() || this.tokens.words[id], Math.exp(logps[id])]);
  }
}
