// The dial: an adapter turned from nothing (0) over all (1) to too much, and what the model then writes.
// Everything is computed ahead, so the same module serves a notebook and a page without a kernel.
import {percent, tag} from './widget.js';

// A text cut at its marks: [text, kind], where kind is '', 'right' or 'wrong'
export function cut(text, marks) {
  const parts = [];
  let at = 0;
  for (const [start, end, kind] of [...marks].sort((a, b) => a[0] - b[0])) {
    if (start < at) continue;
    if (start > at) parts.push([text.slice(at, start), '']);
    parts.push([text.slice(start, end), kind]);
    at = end;
  }
  if (at < text.length) parts.push([text.slice(at), '']);
  return parts;
}

export function summary(frame, word) {
  const wrong = frame.marks.filter(mark => mark[2] === 'wrong').map(mark => frame.text.slice(mark[0], mark[1]));
  const said = wrong.length ? `not in the picture: ${[...new Set(wrong)].join(', ')}` : 'names only what is there';
  return `Adapter at ${frame.scale}: ${said}. P(${word}) = ${percent(frame.prob)}.`;
}

export function render({model, el}) {
  const get = name => model.get(name), frames = get('frames'), word = get('word');
  const slider = tag('input', {type: 'range', min: 0, max: frames.length - 1, 'aria-label': 'How much of the adapter'});
  const number = tag('output'), caption = tag('p', {className: 'povid-caption'}), status = tag('p', {role: 'status'});
  const bar = tag('span', {className: 'povid-bar'}), share = tag('b');
  const picture = tag('img', {src: get('picture'), alt: get('alt'), width: 192, height: 192});
  slider.oninput = () => {
    model.set('at', Number(slider.value));
    model.save_changes();
    draw();
  };

  function draw() {
    const frame = frames[get('at')];
    slider.value = get('at');
    slider.setAttribute('aria-valuetext', `${frame.scale} of the adapter`);
    number.textContent = frame.scale.toFixed(1);
    caption.replaceChildren(...cut(frame.text, frame.marks).map(([text, kind]) =>
      tag('span', {textContent: text, className: kind && `povid-${kind}`})));
    bar.style.setProperty('--p', frame.prob);
    share.textContent = percent(frame.prob);
    status.textContent = summary(frame, word);
  }

  el.replaceChildren(tag('div', {className: 'povid-dial'},
    tag('div', {className: 'povid-row'}, picture, tag('div', {className: 'povid-right-side'},
      caption, tag('div', {className: 'povid-prob'}, tag('span', {textContent: `P(${word})`}), bar, share))),
    tag('label', {}, tag('span', {textContent: 'base'}), slider, tag('span', {textContent: 'beyond'}), number),
    status));
  model.on('change:at', draw);
  draw();
}

export default {render};
