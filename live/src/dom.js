// @ts-check
// The pieces of the page that only show: bars, a curve, a picture. Elements and percentages are those of the widgets.
import {percent, tag} from '../../povid_nb/static/widget.js';

export {percent, tag};

/** @returns {any} */
export const $ = id => document.getElementById(id);

/** RGB bytes onto a canvas */
export function paint(canvas, pixels) {
  const side = Math.sqrt(pixels.length / 3), image = new ImageData(side, side);
  for (let i = 0, j = 0; i < pixels.length; i += 3, j += 4) {
    image.data[j] = pixels[i];
    image.data[j + 1] = pixels[i + 1];
    image.data[j + 2] = pixels[i + 2];
    image.data[j + 3] = 255;
  }
  if (canvas.width !== side) canvas.width = canvas.height = side;
  canvas.getContext('2d').putImageData(image, 0, 0);
}

/** Words with their probabilities; `role` says right, wrong or nothing of each */
export function bars(list, top, role) {
  list.replaceChildren(...top.map(([word, p]) => {
    const kind = role(word), note = {right: 'there', wrong: 'not there'}[kind], bar = tag('span', {className: 'bar'});
    bar.style.setProperty('--p', p);
    return tag('li', {className: kind}, tag('span', {}, word, ...note ? [' ', tag('small', {textContent: note})] : []), bar, tag('b', {textContent: percent(p)}));
  }));
}

/** A curve over the dial, with the present place marked */
export function curve(figure, points, at, caption) {
  const x = scale => 36 + 250 * scale / 1.5, y = p => 110 - 100 * p, here = points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
  const path = points.map(([scale, p], i) => `${i ? 'L' : 'M'}${x(scale).toFixed(1)} ${y(p).toFixed(1)}`).join('');
  const grid = [0, 0.5, 1].map(p => `<path class="grid" d="M36 ${y(p)}H286"/><text x="32" y="${y(p) + 4}" text-anchor="end">${100 * p}%</text>`).join('');
  const ticks = [0, 0.5, 1, 1.5].map(scale => `<text x="${x(scale)}" y="126" text-anchor="middle">${scale}</text>`).join('');
  figure.hidden = false;
  figure.innerHTML = `<svg viewBox="0 0 300 130" role="img" aria-labelledby="sweep-words">${grid}${ticks}<path class="line" d="${path}"/><circle class="here" cx="${x(here[0])}" cy="${y(here[1])}" r="4.5"/></svg>`;
  figure.append(tag('figcaption', {id: 'sweep-words', textContent: caption(here)}));
}
