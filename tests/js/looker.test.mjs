import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './load.mjs';

const {bytes, chosen, fractions, heads, layers, place, still, summary} = await load('looker.js');

const packed = values => Buffer.from(Uint8Array.from(values)).toString('base64');
const packed16 = values => Buffer.from(values.flatMap(v => [v & 255, v >> 8])).toString('base64');
const near = (came, expected, by = 1e-4) => assert.ok(Math.abs(came - expected) < by, `${came} is not ${expected}`);

// two views, two words, a grid of 1 x 3
const views = ['average', 'layer 0'];
const model = {
  name: 'base', data: packed([255, 0, 51, 10, 20, 255, 0, 0, 255, 255, 255, 255]),
  top: packed16([65535, 32768, 6554, 0]), share: packed16([13107, 26214, 39321, 65535])};
const state = change => still({
  known: {k: {words: ['red', 'cup'], means: [.1, .4], grid: [1, 3], models: [model]}}, key: 'k', word: 1,
  view: 'average', views, exact: {}, ...change});

test('stored numbers come back', () => {
  assert.deepEqual([...bytes(packed([0, 7, 255]))], [0, 7, 255]);
  const found = fractions(packed16([0, 65535, 256]));
  assert.equal(found.length, 3);
  [0, 1, 256 / 65535].forEach((v, i) => near(found[i], v));
});

test('the map of a word and a view is the right line of the stored ones', () => {
  const now = chosen(state().get);
  assert.deepEqual([now.word, now.isExact, now.maps[0].name], [1, false, 'base']);
  [.5 * 10 / 255, .5 * 20 / 255, .5].forEach((v, i) => near(now.maps[0].values[i], v));
  near(now.maps[0].share, .4);
  const other = chosen(state({view: 'layer 0', word: 0}).get).maps[0];
  [0, 0, .1].forEach((v, i) => near(other.values[i], v));
  near(other.share, .6);
});

test('exact numbers of the kernel go first, if they are about what is chosen', () => {
  const exact = {key: 'k', word: 1, view: 'average', values: [[.1, .2, .3]], share: [.6]};
  const now = chosen(state({exact}).get);
  assert.ok(now.isExact);
  assert.deepEqual(now.maps[0], {name: 'base', share: .6, values: [.1, .2, .3]});
  for (const stale of [{word: 0}, {view: 'layer 0'}, {key: 'other'}]) {
    assert.equal(chosen(state({exact: {...exact, ...stale}}).get).isExact, false);
  }
});

test('an unknown answer shows nothing, and a shorter answer its last word', () => {
  assert.equal(chosen(state({key: 'new'}).get), null);
  assert.equal(chosen(state({word: 9}).get).word, 1);
});

test('the menus offer each layer once, and the heads of one layer', () => {
  const all = ['average', 'layer 0', 'layer 1', 'layer 0, head 0', 'layer 0, head 1', 'layer 1, head 0'];
  assert.deepEqual(layers(all), ['average', 'layer 0', 'layer 1']);
  assert.deepEqual(heads(all, 'layer 0'), ['average', 'head 0', 'head 1']);
  assert.deepEqual(heads(all, 'average'), ['average']);
});

test('what is said of a map', () => {
  assert.equal(place(7, 3), 'row 3, column 2');
  const map = {values: [.1, .2, .9, .3], share: .5};
  assert.equal(summary(map, 2), '50.0% of the attention on the picture, most at row 2, column 1');
});
