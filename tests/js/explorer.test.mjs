import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './load.mjs';

const {before, keyOf, moment, still, summary, wordsOf} = await load('explorer.js');

const KEY = '0|pixels|clamp|1|There is';
const sweep = {
  steps: [0, 500, 999], words: ['cup', 'fork'], roles: ['true', 'usual'], probs: [[.9, .1], [.5, .5], [0, .25]],
  frames: '0|pixels|clamp|1'};
const state = change => still({
  sweeps: {[KEY]: sweep}, frames: {'0|pixels|clamp|1': ['a', 'b', 'c']}, exact: {}, step: 0, image: 0, space: 'pixels',
  overflow: 'clamp', seed: 1, answer: 'There is a  cup.', position: 2, ...change});

test('words are what stands between blanks', () => {
  assert.deepEqual(wordsOf('  a red\n cup. '), ['a', 'red', 'cup.']);
  assert.deepEqual(wordsOf(''), []);
  assert.equal(before('a red  cup', 2), 'a red');
  assert.equal(before('a', 5), 'a');
  assert.equal(before('a red cup', 0), '');
});

test('a key holds all that a sweep depends on', () => {
  const get = state().get;
  assert.equal(keyOf(get), KEY);
  assert.equal(keyOf(get, {seed: 2}), '0|pixels|clamp|2|There is');
  assert.equal(keyOf(get, {position: '3'}), '0|pixels|clamp|1|There is a');   // menus give texts
  const keys = [{image: 1}, {space: 'processed'}, {overflow: 'wrap'}, {seed: 0}, {position: 1}, {answer: 'A dog.'}];
  assert.equal(new Set([{}, ...keys].map(change => keyOf(get, change))).size, 7);
});

test('in the processed tensor nothing overflows, whatever the menu says', () => {
  const get = state({space: 'processed', overflow: 'wrap'}).get;
  assert.equal(keyOf(get), '0|processed|none|1|There is');
  assert.equal(keyOf(get), keyOf(get, {overflow: 'clamp'}));
});

test('the nearest measured step is shown', () => {
  for (const [step, shown] of [[0, 0], [249, 0], [251, 500], [749, 500], [750, 999], [999, 999]]) {
    const now = moment(state({step}).get), i = sweep.steps.indexOf(shown);
    assert.deepEqual([now.step, now.probs, now.frame], [shown, sweep.probs[i], 'abc'[i]]);
  }
});

test('the exact step goes first, if it is about what is chosen', () => {
  const exact = {key: KEY, step: 430, probs: [.6, .4], frame: 'x'};
  const now = moment(state({exact, step: 430}).get);
  assert.deepEqual([now.step, now.probs, now.frame, now.words], [430, [.6, .4], 'x', ['cup', 'fork']]);
  assert.equal(moment(state({exact, step: 431}).get).step, 500);
  assert.equal(moment(state({exact: {...exact, key: 'other'}, step: 430}).get).step, 500);
});

test('nothing is shown where nothing is known', () => {
  assert.equal(moment(state({position: 1}).get), null);
});

test('the summary names three words, the most probable first', () => {
  const words = ['a', 'b', 'c', 'd'], probs = [.1, .5, .02, .3];
  assert.equal(summary({words, probs, step: 7}), 'At noise step 7: b 50%, d 30%, a 10%.');
});
