// node live_side.mjs FOLDER: what the live page computes of what tests/unit/test_live.py asks for, as JSON
import {readFileSync} from 'node:fs';
import {drawScene} from '../../live/src/draw.js';
import {noisy, process as read} from '../../live/src/picture.js';
import {Random, normal} from '../../live/src/random.js';
import {povidLoss} from '../../live/src/state.js';
import {Tokens} from '../../live/src/tokens.js';
import {World} from '../../live/src/world.js';

const json = name => JSON.parse(readFileSync(`${process.argv[2]}/${name}.json`).toString());
const tables = json('world'), asked = json('asked'), world = new World(tables), tokens = new Tokens(json('tokenizer'));
const base64 = values => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64');

const rng = await Random.of(asked.random), floats = [], found = {};
found.random = [rng.random(), rng.below(10), rng.randint(-4, 4), rng.uniform(2, 3), rng.choice([1, 2, 3]), rng.sample([...Array(30).keys()], 4),
  rng.sample([...Array(9).keys()], 6), [...rng.bytes(7)], rng.random()];
for (const [n, id, step, seed] of asked.normal) floats.push([...await normal(n, id, step, seed)]);
found.normal = floats;
found.scenes = [];
for (const [split, part, number] of asked.scenes) {
  const scene = await world.scene(split, part, number);
  found.scenes.push({context: scene.context, seed: scene.seed, things: scene.things.map(t => [t.kind, t.colour, t.place]),
    caption: await world.caption(scene), missing: world.missing(scene), pixels: base64(await drawScene(tables, scene))});
}
const given = new Uint8Array(readFileSync(`${process.argv[2]}/picture.bin`));
found.process = base64(read(given, tables));
found.noisy = [];
for (const noise of asked.noisy) {
  const {values, picture} = await noisy(given, noise, tables);
  found.noisy.push([base64(values), base64(picture)]);
}
found.tokens = asked.texts.map(text => tokens.encode(text));
found.texts = found.tokens.map(ids => tokens.decode(ids));
found.loss = asked.losses.map(pair => povidLoss(pair).loss);
found.chair = world.chair(asked.captions.map(([index, text]) => ({scene: {...found.scenes[index], things: found.scenes[index].things.map(([kind, colour, place]) => ({kind, colour, place}))}, text})));
console.log(JSON.stringify(found));
