import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './load.mjs';

const {fill, percent, still, tag} = await load('widget.js');

// As much of a document as elements need that are never shown
class Element {
  constructor(name) { Object.assign(this, {name, attributes: {}, children: []}); }
  setAttribute(name, value) { this.attributes[name] = value; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
}
globalThis.document = {createElement: name => new Element(name)};

test('percentages have a digit behind the point where it tells something, or as many as are wanted', () => {
  const shown = ['100%', '50%', '9.9%', '10%', '0.5%', '0.1%', '0%', '0%'];
  assert.deepEqual([1, .5, .0994, .0996, .005, .0005, .0004, 0].map(p => percent(p)), shown);
  assert.deepEqual([percent(.12345, 1), percent(.5, 2)], ['12.3%', '50.00%']);
});

test('an element has properties, and attributes where only those will do', () => {
  const element = tag('p', {textContent: 'a', role: 'status', 'aria-label': 'b', style: '--share:1'}, 'c');
  assert.deepEqual([element.textContent, element.children], ['a', ['c']]);
  assert.deepEqual(element.attributes, {role: 'status', 'aria-label': 'b', style: '--share:1'});
});

test('a menu keeps its options while their words stay, and gets new ones when those change', () => {
  const menu = tag('select');
  fill(menu, [['a', 'A'], ['b', 'B']], 'b', value => value !== 'a');
  const [first, second] = menu.children;
  assert.deepEqual([menu.value, first.disabled, second.disabled], ['b', true, false]);
  fill(menu, [['a', 'A'], ['b', 'B']], 'a');
  assert.deepEqual([menu.children[0] === first, menu.value, first.disabled], [true, 'a', false]);
  fill(menu, [['a', 'A'], ['c', 'C']], 'c');
  assert.deepEqual(menu.children.map(option => option.value), ['a', 'c']);
});

test('a still page keeps what is set', () => {
  const model = still({step: 0});
  model.set('step', 5);
  model.save_changes();
  model.on('change:step', assert.fail);
  assert.equal(model.get('step'), 5);
});
