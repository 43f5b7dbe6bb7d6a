// The explorer: a noise slider, the picture that the model receives, and the words that it would write next.
// One module for both uses: anywidget loads it in a notebook, `Explorer.html` writes it into a page without a kernel.
import {fill, labelled, percent, tag} from './widget.js';

const NOTICED = [
  'sweeps', 'exact', 'step', 'image', 'answer', 'position', 'space', 'overflow', 'seed', 'images', 'message'];
const ROLES = {
  true: 'right here', usual: 'usual partner', there: 'also in the picture', other: 'not in the picture', rest: ''};

// ---- Words and numbers ---------------------------------------------------------------------------------------------

export const wordsOf = text => text.split(/\s+/).filter(Boolean);
export const before = (answer, position) => wordsOf(answer).slice(0, position).join(' ');
// All that a sweep depends on; `change` stands in for some of the values
export function keyOf(get, change = {}) {
  const of = name => (name in change ? change[name] : get(name));
  const noise = [of('image'), of('space'), of('space') === 'processed' ? 'none' : of('overflow'), of('seed')];
  return `${noise.join('|')}|${before(of('answer'), Number(of('position')))}`;
}

// What to show: the exact step where the kernel has sent it, else the nearest one of the sweep; null: none is known
export function moment(get) {
  const sweep = get('sweeps')[keyOf(get)], step = get('step'), exact = get('exact');
  if (!sweep) return null;
  if (exact.key === keyOf(get) && exact.step === step) return {...sweep, ...exact};
  const distance = i => Math.abs(sweep.steps[i] - step);
  const i = sweep.steps.reduce((best, _, other) => (distance(other) < distance(best) ? other : best), 0);
  return {...sweep, step: sweep.steps[i], probs: sweep.probs[i], frame: get('frames')[sweep.frames][i]};
}

export function summary({words, probs, step}) {
  const order = words.map((word, i) => [probs[i], word]).sort((a, b) => b[0] - a[0]).slice(0, 3);
  return `At noise step ${step}: ${order.map(([p, word]) => `${word} ${percent(p)}`).join(', ')}.`;
}

// ---- Elements ------------------------------------------------------------------------------------------------------
// Words keep their rows while the step changes, so that the bars move and the eye can follow
function drawBars(list, {words, roles, probs}, choose) {
  while (list.children.length > words.length) list.lastChild.remove();
  while (list.children.length < words.length) {
    list.append(tag('li', {}, tag('button', {type: 'button'}), tag('span', {className: 'povid-bar'}), tag('b')));
  }
  words.forEach((word, i) => {
    const row = list.children[i], [name, bar, number] = row.children;
    row.className = `povid-${roles[i]}`;
    name.replaceChildren(word, tag('small', {}, ` ${ROLES[roles[i]]}`));
    name.disabled = !choose;
    name.onclick = () => choose(word);
    bar.style.setProperty('--p', probs[i]);
    number.textContent = percent(probs[i]);
  });
}

function drawSentence(box, answer, position, known, choose) {
  const focused = box.contains(document.activeElement) ? [...box.children].indexOf(document.activeElement) : -1;
  const words = [...wordsOf(answer), '…'];
  box.replaceChildren(...words.map((word, i) => tag('button', {
    type: 'button', textContent: word, disabled: !known(i), onclick: () => choose(i),
    className: i === position ? 'povid-here' : i > position ? 'povid-later' : '',
    'aria-pressed': String(i === position), 'aria-label': word === '…' ? 'the next word' : word})));
  box.children[focused]?.focus();
}

function upload(send) {
  const input = tag('input', {type: 'file', accept: 'image/*'}), reader = new FileReader();
  reader.onload = () => send({name: input.files[0].name, data: reader.result});
  input.onchange = () => input.files[0] && reader.readAsDataURL(input.files[0]);
  return input;
}

function controls(change, choose) {
  const select = name =>
    tag('select', {className: `povid-${name}`, onchange: event => change({[name]: event.target.value})});
  const typed = event => change({answer: event.target.value, position: wordsOf(event.target.value).length});
  return {
    picture: tag('img', {width: 240, height: 240}),
    bars: tag('ol', {'aria-label': 'Probabilities of the next word'}),
    sentence: tag('div', {
      className: 'povid-sentence', role: 'group', 'aria-label': 'The answer. Choose a word to predict from there'}),
    slider: tag('input', {
      type: 'range', min: 0, max: 999, oninput: event => change({step: Number(event.target.value)})}),
    step: tag('output'),
    image: tag('select', {className: 'povid-image', onchange: event => choose(Number(event.target.value))}),
    space: select('space'), overflow: select('overflow'),
    seed: tag('select', {onchange: event => change({seed: Number(event.target.value)})}),
    own: tag('input', {type: 'text', onchange: typed}),
    file: upload(data => change({upload: data})),
    alert: tag('p', {role: 'alert'}),
    status: tag('p', {role: 'status', 'aria-live': 'polite'})};
}

export function render({model, el}) {
  const get = name => model.get(name);
  const change = values => {
    for (const name in values) model.set(name, values[name]);
    model.save_changes();
    draw();
  };
  const start = i => ({image: i, answer: get('images')[i].answer, position: get('images')[i].position});
  const may = values => get('live') || keyOf(get, values) in get('sweeps');
  const take = word =>
    change({answer: `${before(get('answer'), get('position'))} ${word}`.trim(), position: get('position') + 1});
  const p = controls(change, i => change(start(i)));
  const live = tag('div', {className: 'povid-row'}, labelled('Own beginning', p.own), labelled('Own image', p.file));
  const menus = [labelled('Image', p.image), labelled('Noise in', p.space), labelled('Overflow', p.overflow),
    labelled('Seed', p.seed)];
  const all = tag('div', {className: 'povid-explorer'},
    tag('div', {className: 'povid-row'}, p.picture, tag('div', {className: 'povid-right'}, p.sentence, p.bars)),
    tag('label', {className: 'povid-slider'}, tag('span', {textContent: 'Noise step'}), p.slider, p.step),
    tag('div', {className: 'povid-row'}, ...menus), live, p.alert, p.status);
  let speak;

  function drawControls() {
    for (const name of ['space', 'overflow', 'seed']) {
      fill(p[name], get('choices')[name].map(v => [v, v]), get(name), v => may({[name]: v}));
    }
    fill(p.image, get('images').map((image, i) => [i, image.name]), get('image'), i => may(start(i)));
    drawSentence(p.sentence, get('answer'), get('position'), i => may({position: i}), i => change({position: i}));
    p.overflow.disabled = get('space') === 'processed';
    live.hidden = !get('live');
    p.alert.textContent = get('message');
    p.slider.value = get('step');
    p.slider.setAttribute('aria-valuetext', `step ${get('step')} of 999`);
    if (document.activeElement !== p.own) p.own.value = before(get('answer'), get('position'));
  }

  function draw() {
    drawControls();
    const now = moment(get);
    all.classList.toggle('povid-busy', !now);
    if (!now) return;
    p.step.textContent = now.step === get('step') ? now.step : `${get('step')}, shown ${now.step}`;
    Object.assign(p.picture, {src: now.frame, alt: `The image at noise step ${now.step}`});
    drawBars(p.bars, now, get('live') && take);
    clearTimeout(speak);
    speak = setTimeout(() => { p.status.textContent = summary(now); }, 400);
  }

  for (const name of NOTICED) model.on(`change:${name}`, draw);
  el.replaceChildren(all);
  draw();
}

export default {render};
