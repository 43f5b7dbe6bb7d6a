// The looker: an answer whose words can be pressed, and the picture, lit where each word attends.
// One module for both uses: anywidget loads it in a notebook, `Looker.html` writes it into a page without a kernel.
import {fill, labelled, percent, tag} from './widget.js';

const DARKEST = 0.82; // how much light the patch with no attention loses
const NOTICED = ['known', 'key', 'exact', 'word', 'view', 'image', 'images', 'message'];

// ---- Numbers -------------------------------------------------------------------------------------------------------

export const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

// two bytes each, the low one first
export function fractions(text) {
  const data = new DataView(bytes(text).buffer);
  return Array.from({length: data.byteLength / 2}, (_, i) => data.getUint16(2 * i, true) / 65535);
}

// The maps of the chosen word and view, one for each model: the exact ones where the kernel has sent them
export function chosen(get) {
  const known = get('known')[get('key')], exact = get('exact');
  if (!known) return null;
  const word = Math.min(get('word'), known.words.length - 1), view = get('view');
  const line = get('views').indexOf(view) * known.words.length + word, size = known.grid[0] * known.grid[1];
  const isExact = exact.key === get('key') && exact.word === word && exact.view === view;
  const maps = known.models.map((model, i) => {
    if (isExact) return {name: model.name, share: exact.share[i], values: exact.values[i]};
    const top = fractions(model.top)[line], stored = bytes(model.data).slice(line * size, (line + 1) * size);
    return {name: model.name, share: fractions(model.share)[line], values: Array.from(stored, v => (v / 255) * top)};
  });
  return {words: known.words, means: known.means, grid: known.grid, word, isExact, maps};
}

// "layer 2, head 1" is a view; these are the choices of the two menus
export const layers = views => [...new Set(views.map(view => view.split(', ')[0]))];
export const heads = (views, layer) =>
  views.filter(view => view.split(', ')[0] === layer).map(view => view.split(', ')[1] ?? 'average');

export function place(i, columns) {
  return `row ${Math.floor(i / columns) + 1}, column ${(i % columns) + 1}`;
}

export function summary({values, share}, columns) {
  const brightest = values.indexOf(Math.max(...values));
  return `${percent(share, 1)} of the attention on the picture, most at ${place(brightest, columns)}`;
}

// ---- Elements ------------------------------------------------------------------------------------------------------
function drawWords(box, {words, means, word: current}, choose) {
  const focused = box.contains(document.activeElement) ? [...box.children].indexOf(document.activeElement) : -1;
  const top = Math.max(...means) || 1;
  box.replaceChildren(...words.flatMap((word, i) => [' ', tag('button', {
    type: 'button', textContent: word, onclick: () => choose(i), 'aria-pressed': String(i === current),
    className: i === current ? 'povid-here' : '', title: `${percent(means[i], 1)} of the attention on the picture`,
    style: `--share:${(means[i] / top).toFixed(3)}`})]));
  box.children[focused]?.focus();
}

function newPanel() {
  const frame = tag('div', {className: 'povid-frame'},
    tag('img'), tag('div', {className: 'povid-cells', 'aria-hidden': 'true'}));
  return tag('figure', {}, tag('figcaption'), frame, tag('output'));
}

function drawPanel(panel, map, picture, [rows, columns], top) {
  const [title, frame, number] = panel.children, [image, cells] = frame.children;
  while (cells.children.length < map.values.length) cells.append(tag('i'));
  while (cells.children.length > map.values.length) cells.lastChild.remove();
  cells.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  map.values.forEach((value, i) => {
    cells.children[i].style.setProperty('--dark', (DARKEST * (1 - value / top)).toFixed(3));
    cells.children[i].title = `${place(i, columns)}: ${percent(value, 2)} of the attention`;
  });
  const said = summary(map, columns);
  Object.assign(image, {src: picture, alt: `${map.name}: ${said}`});
  title.textContent = map.name;
  number.textContent = said;
}

// ---- The widget ----------------------------------------------------------------------------------------------------

function controls(get, change) {
  const layerOf = view => view.split(', ')[0];
  const viewOf = (layer, head) => (head === 'average' ? layer : `${layer}, ${head}`);
  const image = i => ({image: i, word: get('images')[i].word, key: get('images')[i].key});
  return {
    words: tag('div', {
      className: 'povid-words', role: 'group', 'aria-label': 'The answer. Choose a word to see where it attends'}),
    panels: tag('div', {className: 'povid-row'}),
    image: tag('select', {className: 'povid-image', onchange: e => change(image(Number(e.target.value)))}),
    layer: tag('select', {className: 'povid-layer', onchange: e => change({view: e.target.value})}),
    head: tag('select', {
      className: 'povid-head', onchange: e => change({view: viewOf(layerOf(get('view')), e.target.value)})}),
    own: tag('input', {type: 'text', size: 50, onchange: e => change({answer: e.target.value})}),
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
  const p = controls(get, change), own = labelled('Own answer', p.own);
  const menus = [labelled('Image', p.image), labelled('Layer', p.layer), labelled('Head', p.head)];
  el.replaceChildren(tag('div', {className: 'povid-looker'},
    p.words, p.panels, tag('div', {className: 'povid-row'}, ...menus), own, p.alert, p.status));

  function drawMenus() {
    const [layer, head = 'average'] = get('view').split(', '), views = get('views');
    fill(p.layer, layers(views).map(v => [v, v]), layer);
    fill(p.head, heads(views, layer).map(v => [v, v]), head);
    fill(p.image, get('images').map((image, i) => [i, image.name]), get('image'));
    p.head.disabled = p.head.children.length < 2;
    own.hidden = !get('live');
    p.alert.textContent = get('message');
  }

  function draw() {
    drawMenus();
    const now = chosen(get);
    if (!now) return;
    const top = Math.max(...now.maps.flatMap(map => map.values)) || 1; // one scale for all models
    drawWords(p.words, now, word => change({word}));
    while (p.panels.children.length < now.maps.length) p.panels.append(newPanel());
    while (p.panels.children.length > now.maps.length) p.panels.lastChild.remove();
    now.maps.forEach((map, i) => drawPanel(p.panels.children[i], map, get('pictures')[get('image')], now.grid, top));
    const shares = now.maps.map(map => `${map.name} ${percent(map.share, 1)} on the picture`).join(', ');
    const waiting = now.isExact || !get('live') ? '' : ' ...';
    p.status.textContent = `${now.words[now.word]}, ${get('view')}: ${shares}${waiting}`;
  }

  for (const name of NOTICED) model.on(`change:${name}`, draw);
  draw();
}

export default {render};
