import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './load.mjs';

const {cut, summary} = await load('dial.js');

test('a text is cut at its marks and nothing is lost', () => {
  const text = 'a fork and a knife.', marks = [[13, 18, 'wrong'], [2, 6, 'right'], [3, 8, 'wrong']];
  const parts = cut(text, marks);
  assert.deepEqual(parts, [['a ', ''], ['fork', 'right'], [' and a ', ''], ['knife', 'wrong'], ['.', '']]);
  assert.equal(parts.map(part => part[0]).join(''), text);
  assert.deepEqual(cut('', []), []);
});

test('the summary names what is not there, once', () => {
  const frame = {scale: 0.5, text: 'a knife and a knife', marks: [[2, 7, 'wrong'], [14, 19, 'wrong']], prob: 0.061};
  assert.equal(summary(frame, 'knife'),
    'Adapter at 0.5: not in the picture: knife. P(knife) = 6.1%.');
  assert.match(summary({...frame, marks: []}, 'knife'), /names only what is there/);
});
