// @ts-check
// The page: what is chosen (state.js), the model's thread (worker.js), and what they show together.
import {asker, latest} from './ask.js';
import {composer} from './compose.js';
import {$, bars, curve, paint, percent, tag} from './dom.js';
import {fromHash, povidLoss, toHash} from './state.js';
import {World} from './world.js';

const ask = asker(new Worker(new URL('worker.js', import.meta.url), {type: 'module'}));
const tables = await (await fetch(new URL('world.json', import.meta.url))).json(), world = new World(tables);
const state = fromHash(location.hash, tables), newest = latest();
/** @type {any} */
let scene = null;
/** @type {any} */
let picture = null;          // {key, id, pixels}: what the model's thread needs of the picture
/** @type {string | null} the words before the one that was pressed: they stay while dial and noise move */
let prefix = null;
let text = '', base = '', pictures = 0, timer = 0, frame = 0;
const noise = () => ({step: state.noise, seed: state.seed, space: state.space, overflow: state.overflow});
const model = () => ({picture, noise: noise(), adapter: state.adapter, scale: state.dial});
const words = () => text.split(' ').filter(Boolean);
const bare = word => word.toLowerCase().replace(/[^a-z]/g, '');
const isThing = word => world.kinds.includes(bare(word));
const role = word => !scene || !isThing(word) ? '' : world.objects(scene).has(bare(word)) ? 'right' : 'wrong';
const partner = () => scene && world.missing(scene)[0];

function say(message, bad = false) {
  $('status').textContent = message;
  $('status').classList.toggle('bad', bad);
}
let gone = false;             // whether there is no model
const failed = error => gone || say(`Something went wrong: ${error.message}`, true);
const keep = () => history.replaceState(null, '', toHash({...state, scene}));

// ---- The picture -----------------------------------------------------------------------------------------------------

async function change(next, course = '') {
  Object.assign(state, {course, at: -1, noise: -1});
  scene = next;
  controls();
  const id = scene.seed === 'by hand' ? '' : scene.seed;
  $('chosen').value = scene.things.length ? await world.caption(scene) : '';
  $('rejected').value = '';
  await newPicture(await ask('draw', {scene}), id, `${scene.context}: ${scene.things.map(thing => `${thing.colour} ${thing.kind} ${tables.places[thing.place]}`).join(', ') || 'nothing there yet'}`);
}

async function newPicture(pixels, id, words) {
  picture = {key: `picture ${++pictures}`, id, pixels};
  base = '';
  prefix = null;
  $('sweep').hidden = true;
  $('picture').setAttribute('aria-label', words);
  compose(scene);
  keep();
  await shown();
  await write();
}

const shown = async () => paint($('picture'), state.noise < 0 ? picture.pixels : await ask('show', {picture, noise: noise()}));
const compose = composer(world, next => change(next).catch(failed));

async function another() {
  const number = Math.floor(Math.random() * 10000), course = `counter/test/${number}`;
  await change(await world.scene('counter', 'test', number), course);
}

async function upload(file) {
  const canvas = document.createElement('canvas'), image = await createImageBitmap(file), side = Math.min(image.width, image.height);
  canvas.width = canvas.height = 224;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
  context.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, 224, 224);
  const {data} = context.getImageData(0, 0, 224, 224);
  scene = null;
  state.course = '';
  state.at = -1;
  await newPicture(data.filter((_, i) => i % 4 < 3), '', file.name);
  say('Your picture, cut square. The model knows only the drawn world, so it will see drawn things in it; what is true of it is not known here, so nothing is marked.');
}

// ---- What it says ----------------------------------------------------------------------------------------------------

async function write() {
  text = '';
  const done = await ask('write', model(), part => { text = part; frame ||= requestAnimationFrame(caption); });
  if (!done) return;
  caption();
  const wrong = [...new Set(words().filter(word => role(word) === 'wrong').map(bare))];
  $('verdict').textContent = !scene ? '' : wrong.length ? `Not in the picture: ${wrong.join(', ')}.` : 'It names only what is there.';
  if (prefix === null) {
    prefix = upTo(state.at < 0 ? defaultWord() : state.at);
    caption();
  }
  await bar();
  if (!base) await before();
}

const upTo = i => words().slice(0, i).join(' ');

// the first word that is wrong, else the first thing
const defaultWord = () => Math.max(0, ['wrong', 'right'].map(kind => words().findIndex(word => role(word) === kind)).find(i => i >= 0) ?? 0);

function caption() {
  cancelAnimationFrame(frame);
  frame = 0;
  $('caption').replaceChildren(...words().flatMap((word, i) => {
    const kind = role(word), button = tag('button', {type: 'button', textContent: word, className: kind, onclick: () => pick(i), 'aria-pressed': String(upTo(i) === prefix)});
    if (kind === 'wrong') button.setAttribute('aria-label', `${word} (not in the picture)`);
    return [button, ' '];
  }));
}

async function pick(i) {
  state.at = i;
  prefix = upTo(i);
  [...$('caption').children].forEach((button, j) => button.setAttribute('aria-pressed', String(j === i)));
  keep();
  await bar();
}

// the next word at the chosen place, under the noise and the dial of now
async function bar() {
  if (prefix === null) return;
  const before = prefix, found = await ask('next', {...model(), prefix: before});
  bars($('bars'), found.top, role);
  $('prefix').textContent = before ? `After “… ${before.split(' ').slice(-7).join(' ')}”:` : 'The first word:';
  paint($('picture'), found.picture);
  const most = Math.max(...found.look), share = found.look.reduce((a, b) => a + b, 0);
  $('look-note').textContent = `${percent(share)} of its attention is on the picture here`;
  $('look').replaceChildren(...$('show-look').checked ? found.look.map(value => { const cell = tag('i'); cell.style.opacity = String(0.78 * (1 - value / most)); return cell; }) : []);
}

// what the untuned model says, for the curve and for the pair
async function before() {
  const now = picture, here = {picture, noise: {...noise(), step: -1}, adapter: state.adapter};
  let said = state.dial || state.noise >= 0 ? '' : text;
  if (!said && !await ask('base', {...here, scale: 0}, part => { said = part; }) || now !== picture) return;
  base = said;
  const list = base.split(' '), wrong = list.findIndex(word => role(word) === 'wrong');
  $('rejected').value = wrong >= 0 ? base : partner() ? `${$('chosen').value} Next to it is a ${tables.traits[partner()][0]} ${partner()}.` : base;
  loss().catch(failed);
  await sweep(list, wrong);
}

async function sweep(list = base.split(' '), wrong = list.findIndex(word => role(word) === 'wrong')) {
  if (wrong < 0) { $('sweep').hidden = true; return; }
  const start = list.slice(0, wrong).findLastIndex(word => word.endsWith('.')) + 1, points = [];        // of the sentence
  const words = list.slice(start, wrong + 1).join(' ').replace(/\W+$/, '');
  await ask('dial', {picture, noise: {...noise(), step: -1}, adapter: state.adapter, prefix: list.slice(0, start).join(' '), words}, part => points.push(part));
  sweep.draw = () => curve($('sweep'), points, state.dial, ([, p]) => `How probable “${words}” is where the untuned model writes it, against the dial: ${percent(p)} at ${state.dial.toFixed(1)}.`);
  sweep.draw();
}
/** @type {() => void} */
sweep.draw = () => {};

// ---- Controls --------------------------------------------------------------------------------------------------------

function controls() {
  $('dial').value = state.dial;
  $('dial-value').textContent = state.dial.toFixed(1);
  $('step').value = state.noise;
  $('step-value').textContent = state.noise < 0 ? 'none' : state.noise;
  $('step').setAttribute('aria-valuetext', state.noise < 0 ? 'no noise' : `step ${state.noise} of 999`);
  for (const name of ['adapter', 'space', 'overflow', 'seed']) $(name).value = state[name];
  $('overflow').disabled = state.space === 'processed';
}

// Bars at once, with the words that stand there; the description when the hand rests
function moved() {
  controls();
  keep();
  newest(() => bar().catch(failed));
  clearTimeout(timer);
  timer = window.setTimeout(() => write().catch(failed), 250);
}

$('dial').oninput = () => { state.dial = Number($('dial').value); moved(); if (!$('sweep').hidden) sweep.draw(); };
$('step').oninput = () => { state.noise = Number($('step').value); moved(); };
$('adapter').onchange = () => { state.adapter = $('adapter').value; moved(); sweep().then(() => loss()).catch(failed); };
for (const name of ['space', 'overflow']) $(name).onchange = () => { state[name] = $(name).value; moved(); };
$('seed').onchange = () => { state.seed = Math.max(0, Math.min(9999, Math.round(Number($('seed').value) || 0))); moved(); };
$('show-look').onchange = () => bar().catch(failed);
$('another').onclick = () => another().catch(failed);
$('upload').onchange = () => $('upload').files[0] && upload($('upload').files[0]).catch(() => say('This file is not a picture that the browser can read.', true));

// ---- Fifty scenes ----------------------------------------------------------------------------------------------------

let run = 0;
async function chair() {
  const mine = ++run, {adapter, dial} = state, row = tag('tr'), name = dial ? `${dial.toFixed(1)}, ${$('adapter').selectedOptions[0].textContent}` : '0, as it was';
  $('scores').tBodies[0].prepend(row);
  $('progress').hidden = $('latest').hidden = $('runs').hidden = false;
  $('run').textContent = 'Stop';
  await ask('chair', {split: 'counter', n: 50, adapter, scale: dial}, ({sums, pixels, text: said, wrong}) => {
    $('progress').value = sums.captions;
    const [canvas, p] = $('latest').children;
    paint(canvas, pixels);
    p.textContent = `${wrong ? '✗' : '✓'} ${said}`;
    const cells = [name, sums.captions, percent(sums.hallucinate / sums.captions), percent(sums.wrong / Math.max(1, sums.mentions)), percent(sums.named / sums.there)];
    row.replaceChildren(...cells.map(value => tag('td', {textContent: String(value)})));
  });
  if (mine === run) { $('run').textContent = 'Describe 50 scenes'; $('progress').hidden = true; }
}
$('run').onclick = () => {
  if ($('run').textContent !== 'Stop') return chair().catch(failed);
  ask('chair', {split: 'counter', n: 0, adapter: 'stage2', scale: 0});     // a new call ends the one before
};

// ---- The loss --------------------------------------------------------------------------------------------------------

const y = index => ['y', tag('sub', {textContent: index})];

async function loss() {
  const chosen = $('chosen').value, rejected = $('rejected').value;
  if (!chosen.trim() || !rejected.trim()) { $('loss').textContent = 'Both answers need words.'; return; }
  const found = await ask('loss', {...model(), noise: {...noise(), step: state.noise < 0 ? 500 : state.noise}, chosen, rejected});
  const {gain, margin, loss: value} = povidLoss(found), names = {chosen: ['right', 'w'], rejected: ['hallucinated', 'l'], noise: ['under noise', 'n']};
  $('logps').tBodies[0].replaceChildren(...Object.entries(names).map(([name, [label, index]]) => tag('tr', {}, tag('th', {scope: 'row'}, `${label} `, ...y(index)),
    ...[found.policy[name], found.reference[name], gain[name]].map(x => tag('td', {textContent: x.toFixed(2)})))));
  $('loss').replaceChildren('Margin 0.1·D(', ...y('w'), ') − 0.05·(D(', ...y('l'), ') + D(', ...y('n'),
    `)) = ${margin.toFixed(3)}; loss −log σ(margin) = ${value.toFixed(3)} (0.693 where policy and reference agree).`);
  $('noise-says').replaceChildren(...y('n'), `: ${found.tokens}`);
}
const lossSoon = latest();
for (const name of ['chosen', 'rejected']) $(name).oninput = () => lossSoon(() => loss().catch(failed));
$('dial').addEventListener('change', () => lossSoon(() => loss().catch(failed)));
$('step').addEventListener('change', () => lossSoon(() => loss().catch(failed)));

// ---- Begin -----------------------------------------------------------------------------------------------------------

const FIRST = {context: 'table', seed: 'by hand', things: [{kind: 'fork', colour: 'grey', place: 3},
  {kind: 'plate', colour: 'white', place: 1}, {kind: 'bowl', colour: 'yellow', place: 8}]};

async function begin() {
  const {at, noise: step, course} = state, [split, part, number] = course.split('/');
  const first = change(course ? await world.scene(split, part, Number(number)) : state.scene ?? FIRST, course);
  Object.assign(state, {at, noise: step});        // a new picture begins without noise, an address may have some
  controls();
  await first;
}
window.addEventListener('hashchange', () => { Object.assign(state, fromHash(location.hash, tables)); begin().catch(failed); });
ask('load').then(() => say('The model is here. Everything below is computed in this page.')).catch(error => {
  gone = true;
  $('live').classList.add('gone');
  say(`The model could not be loaded: ${error.message}`, true);
  $('status').insertAdjacentHTML('afterend', $('instead').textContent);       // what readers without scripts get
});
if (matchMedia('(max-width: 50rem)').matches) $('traps-fold').open = false;
begin().catch(failed);
