import assert from 'node:assert/strict';
import {test} from 'node:test';
import {asker, latest} from '../../live/src/ask.js';
import {gains, logSoftmax, widen} from '../../live/src/model.js';
import {START, fromHash, povidLoss, toHash} from '../../live/src/state.js';

const tables = {contexts: {table: [], park: []}, colours: {red: [], grey: []}, traits: {cup: [], fork: []}};
const scene = {context: 'table', things: [{kind: 'cup', colour: 'red', place: 3}, {kind: 'fork', colour: 'grey', place: 5}], seed: 'by hand'};

test('an address keeps what is shown', () => {
  const state = {...START, scene, adapter: 'control', dial: 1.3, noise: 300, seed: 7, space: 'processed', overflow: 'wrap', at: 4};
  assert.deepEqual(fromHash(toHash(state), tables), state);
  assert.deepEqual(fromHash(toHash({...START, course: 'counter/test/12'}), tables), {...START, course: 'counter/test/12'});
  assert.deepEqual(fromHash('', tables), START);
});

test('what makes no sense in an address is left out', () => {
  const odd = fromHash('#dial=9&noise=x&adapter=mine&course=../../etc&scene=table;red.cup.3;red.cup.4;blue.fork.5;red.fork.3;grey.fork.12', tables);
  assert.deepEqual(odd, {...START, scene: {...scene, things: [scene.things[0]]}});
  assert.equal(fromHash('#scene=moon;red.cup.3', tables).scene, null);
});

test('the dial mixes what stage 2 adds to stage 1', () => {
  assert.deepEqual([gains('base', 1), gains('control', 0.5), gains('stage1', 1), gains('stage2', 1.5)],
    [[0, 0, 0], [0.5, 0, 0], [0, 1, 0], [0, 1.5, 1.5]]);
});

test('log-probabilities sum to one, whatever the size of the numbers', () => {
  const logps = logSoftmax([1000, 1001, 999], 0, 3);
  assert.ok(Math.abs(logps.reduce((sum, x) => sum + Math.exp(x), 0) - 1) < 1e-12);
});

test('numbers of sixteen bits keep their value', () => {
  const halves = Uint16Array.of(0x3c00, 0xc000, 0x3555, 0x0001, 0x83ff, 0x7bff, 0x8000);
  const expected = [1, -2, 0.333251953125, 2 ** -24, -1023 * 2 ** -24, 65504, -0];
  assert.deepEqual([...widen(new Uint8Array(halves.buffer))], expected);
});

test('the loss falls where the right answer gains, and is log 2 where nothing has changed', () => {
  const reference = {chosen: -10, rejected: -9, noise: -12};
  assert.ok(Math.abs(povidLoss({policy: reference, reference}).loss - Math.log(2)) < 1e-12);
  const better = povidLoss({policy: {...reference, chosen: -8, rejected: -29}, reference});
  assert.ok(Math.abs(better.margin - 1.2) < 1e-12 && better.loss < 0.3);
});

test('calls are answered by number, in parts and at the end; errors reject', async () => {
  const worker = {postMessage({id, verb}) {
    queueMicrotask(() => {
      if (verb === 'bad') worker.onmessage({data: {id, error: 'no'}});
      else { worker.onmessage({data: {id, part: 'a'}}); worker.onmessage({data: {id, value: verb}}); }
    });
  }};
  const ask = asker(worker), parts = [];
  assert.deepEqual(await Promise.all([ask('one', {}, part => parts.push(part)), ask('two')]), ['one', 'two']);
  assert.deepEqual(parts, ['a']);
  await assert.rejects(ask('bad'), /no/);
});

test('of many calls at once the first and the last are run', async () => {
  const begun = [], ends = [], run = latest();
  [1, 2, 3, 4].forEach(n => run(() => new Promise(resolve => { begun.push(n); ends.push(resolve); })));
  assert.deepEqual(begun, [1]);
  ends[0]();
  await new Promise(resolve => { setTimeout(resolve); });
  assert.deepEqual(begun, [1, 4]);
});
