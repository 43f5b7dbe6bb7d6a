// @ts-check
// The model's thread. A message {id, verb, args} is answered by {id, value}, by parts {id, part} before it, or by
// {id, error}. A new call of a verb ends the one that is still running.
import * as ort from 'onnxruntime-web/wasm';
import {drawScene} from './draw.js';
import {Model, gains} from './model.js';
import {noisy, process as read} from './picture.js';
import {Tokens} from './tokens.js';
import {World} from './world.js';

const here = name => new URL(name, self.location.href).href;
const fetched = async name => {
  const answer = await fetch(here(name));
  if (!answer.ok) throw new Error(`${name} could not be loaded (${answer.status})`);
  return answer;
};
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = {wasm: here('ort-wasm-simd-threaded.wasm'), mjs: here('ort-wasm-simd-threaded.mjs')};

// An empty graph is refused, but not before the runtime is there: so it starts now, beside the weights' way here
ort.InferenceSession.create(new Uint8Array()).catch(() => {});

const json = name => fetched(name).then(answer => answer.json());
const bytes = name => fetched(name).then(answer => answer.arrayBuffer()).then(buffer => new Uint8Array(buffer));
const tables = json('world.json');
const part = async name => { const [graph, weights] = await Promise.all([bytes(`${name}.onnx`), bytes(`${name}.bin`)]); return {graph, weights}; };
const loaded = Promise.all([tables, Model.load(ort, part('see'), part('speak'), json('tokenizer.json').then(file => new Tokens(file)))])
  .then(([t, model]) => ({world: new World(t), tables: t, model}));

const seen = new Map();      // the picture with this noise -> its features
async function features(picture, noise) {
  const {model, tables: t} = await loaded, key = `${picture.key}|${Object.values(noise).join('|')}`;
  if (!seen.has(key)) {
    const shown = noise.step < 0 ? {values: read(picture.pixels, t), picture: picture.pixels} : await noisy(picture.pixels, {...noise, id: picture.id}, t);
    if (seen.size > 40) seen.delete(seen.keys().next().value);
    seen.set(key, {features: await model.see(shown.values), picture: shown.picture});
  }
  return seen.get(key);
}

// Lets messages in: without it, none would be read before the last token
const pause = () => new Promise(resolve => { const {port1, port2} = new MessageChannel(); port1.onmessage = resolve; port2.postMessage(0); });

const verbs = {
  async load() { await loaded; return true; },
  async draw({scene}) { return drawScene(await tables, scene); },
  async show({picture, noise}) { return (await features(picture, noise)).picture; },

  async * write({picture, noise, adapter, scale, question}) {
    const {model} = await loaded, {features: eyes} = await features(picture, noise);
    for await (const {text} of model.write(eyes, gains(adapter, scale), {question})) { yield text; await pause(); }
  },

  // the same without noise by the model as it was, beside what is being written
  async * base(args) { yield* verbs.write(args); },

  // how probable some words are behind a beginning, for each setting of the dial: [scale, probability]
  async * dial({picture, noise, adapter, prefix, words}) {
    const {model} = await loaded, {features: eyes} = await features(picture, noise), n = model.answer(prefix).length;
    for (let i = 0; i <= 15; i++) {
      const {logps} = await model.score(eyes, gains(adapter, i / 10), `${prefix} ${words}`);
      yield [i / 10, Math.exp(logps.slice(n, -1).reduce((a, b) => a + b, 0))];
      await pause();
    }
  },

  // the words that could come next, the chances of some, and where the model looks
  async next({picture, noise, adapter, scale, prefix, words = [], question}) {
    const {model} = await loaded, {features: eyes, picture: shown} = await features(picture, noise);
    const {logps, look} = await model.next(eyes, gains(adapter, scale), prefix, question);
    const chances = words.map(word => Math.exp(logps[model.answer(word).at(-1)]));
    return {top: model.top(logps, 8), chances, look, picture: shown};
  },

  // scenes of the course, one by one: what is said of each, and CHAIR so far
  async * chair({split, n, adapter, scale}) {
    const {model, world, tables: t} = await loaded, rows = [];
    for (let i = 0; i < n; i++) {
      const scene = await world.scene(split, 'test', i), picture = {key: scene.seed, id: scene.seed, pixels: await drawScene(t, scene)};
      let text = '';
      for await (const step of model.write((await features(picture, {step: -1})).features, gains(adapter, scale))) { text = step.text; await pause(); }
      rows.push({scene, text});
      yield {sums: world.chair(rows), seed: scene.seed, pixels: picture.pixels, text, wrong: world.mentions(text).filter(([, , kind]) => !world.objects(scene).has(kind)).length};
    }
  },

  // log-probabilities of the pair, and of what noise makes the model say, by policy and by reference; POVID's loss
  async loss({picture, noise, adapter, scale, chosen, rejected}) {
    const {model} = await loaded, now = gains(adapter, scale), then = gains('base', 0), sum = values => values.reduce((a, b) => a + b, 0);
    const {features: clean} = await features(picture, {step: -1}), {features: hidden} = await features(picture, {...noise, step: Math.max(0, noise.step)});
    const score = async (eyes, scales, text) => { await pause(); return model.score(eyes, scales, text); };
    const noisyNow = await score(hidden, now, chosen), noisyThen = await score(hidden, then, chosen), tokens = noisyNow.likeliest;
    return {
      policy: {chosen: sum((await score(clean, now, chosen)).logps), rejected: sum((await score(clean, now, rejected)).logps),
        noise: sum(tokens.map((id, i) => noisyNow.at(i, id)))},
      reference: {chosen: sum((await score(clean, then, chosen)).logps), rejected: sum((await score(clean, then, rejected)).logps),
        noise: sum(tokens.map((id, i) => noisyThen.at(i, id)))},
      tokens: model.tokens.decode(tokens)};
  }};

const running = new Map();
self.onmessage = async ({data: {id, verb, args}}) => {
  running.set(verb, id);
  try {
    const work = verbs[verb](args);
    if (!(Symbol.asyncIterator in work)) { self.postMessage({id, value: await work}); return; }
    for await (const part of work) {
      if (running.get(verb) !== id) break;
      self.postMessage({id, part});
    }
    self.postMessage({id, value: running.get(verb) === id});
  } catch (error) {
    self.postMessage({id, error: String(error instanceof Error ? error.message : error)});
  }
};
