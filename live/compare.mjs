// node compare.mjs FOLDER CAPTIONS.json PICTURES.bin: how many of torch's captions the page's runtime writes, of Python's
// pictures, and of the same scenes as it draws them itself
import {readFileSync} from 'node:fs';
import * as ort from 'onnxruntime-web/wasm';
import {drawScene} from './src/draw.js';
import {Model, gains} from './src/model.js';
import {SIZE, process as read} from './src/picture.js';
import {Tokens} from './src/tokens.js';
import {World} from './src/world.js';

const [folder, captions, pictures] = process.argv.slice(2), bytes = name => readFileSync(`${folder}/${name}`);
const json = name => JSON.parse(bytes(name).toString()), given = JSON.parse(readFileSync(captions).toString()), found = {};
ort.env.wasm.numThreads = 1;
const tables = json('world.json'), world = new World(tables), pixels = readFileSync(pictures), n = 3 * SIZE * SIZE;
const part = name => ({graph: bytes(`${name}.onnx`), weights: bytes(`${name}.bin`)});
const model = await Model.load(ort, part('see'), part('speak'), new Tokens(json('tokenizer.json')));
const see = [[], []];
for (let i = 0; i < pixels.length / n; i++) {
  see[0].push(await model.see(read(pixels.subarray(i * n, (i + 1) * n), tables)));
  see[1].push(await model.see(read(await drawScene(tables, await world.scene('counter', 'test', i)), tables)));
}
for (const [setting, texts] of Object.entries(given)) {
  const [adapter, scale] = setting.split(' '), scales = gains(adapter, Number(scale));
  found[setting] = [0, 0];
  for (const [which, features] of see.entries()) {
    for (let i = 0; i < texts.length; i++) found[setting][which] += Number(await model.describe(features[i], scales) === texts[i]);
  }
}
console.log(JSON.stringify(found));
