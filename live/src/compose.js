// @ts-check
// The scene as something to be changed: nine places, each a button; things are pressed, moved by dragging or by
// pressing where they should go, coloured, removed, and added from a list.
import {drawIcon} from './draw.js';
import {$, paint, tag} from './dom.js';

/**
 * @param {import('./world.js').World} world
 * @param {(scene: import('./world.js').Scene) => void} change called with each new scene
 */
export function composer(world, change) {
  const {tables} = world;
  /** @type {any} */
  let scene = null;
  let selected = -1, adding = '', moved = false;
  const at = place => scene?.things.find(thing => thing.place === place);
  const set = things => change({...scene, things, seed: 'by hand'});

  $('context').replaceChildren(...world.contexts.map(name => tag('option', {textContent: name})));
  $('context').onchange = () => change({...(scene ?? {things: []}), context: $('context').value, seed: 'by hand'});
  $('colour').replaceChildren(...world.colours.map(name => tag('option', {textContent: name})));
  $('colour').onchange = () => set(scene.things.map(thing => thing.place === selected ? {...thing, colour: $('colour').value} : thing));
  $('remove').onclick = remove;

  $('traps').replaceChildren(...Object.entries(world.partners).map(([cue, partner]) => tag('button', {type: 'button', onclick: () => trap(cue),
    textContent: `${cue}, no ${partner}`})));
  $('things').replaceChildren(...world.kinds.map(kind => {
    const icon = tag('canvas', {width: 40, height: 40, 'aria-hidden': 'true'});
    paint(icon, drawIcon(tables, kind, tables.traits[kind][0]));
    const button = tag('button', {type: 'button', 'aria-pressed': 'false', onclick: () => choose(adding === kind ? '' : kind)}, icon, kind);
    button.dataset.kind = kind;
    draggable(button, () => kind, (_, place) => add(kind, place));
    return button;
  }));

  const places = tables.places.map((where, place) => {
    const button = tag('button', {type: 'button', 'aria-label': where, onclick: () => moved ? (moved = false) : press(place)});
    button.onkeydown = event => {
      if (event.key === 'Delete' || event.key === 'Backspace') { selected = place; remove(); }
      const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -3, ArrowDown: 3}[event.key], next = place + (step ?? 0);
      if (!step || next < 0 || next > 8 || Math.abs(step) === 1 && Math.floor(next / 3) !== Math.floor(place / 3)) return;
      event.preventDefault();
      places[next].focus();
    };
    draggable(button, () => at(place)?.kind, (_, to) => to !== place && move(place, to));
    return button;
  });
  $('places').replaceChildren(...places);

  // Dragging with any pointer: what is carried, and what to do where it is let go
  function draggable(element, what, drop) {
    let start = null;
    const over = event => places.findIndex(button => {
      const box = button.getBoundingClientRect();
      return event.clientX >= box.left && event.clientX < box.right && event.clientY >= box.top && event.clientY < box.bottom;
    });
    element.onpointerdown = event => { start = what() ? [event.clientX, event.clientY] : null; moved = false; };
    element.onpointermove = event => {
      if (!start || Math.hypot(event.clientX - start[0], event.clientY - start[1]) < 8) return;
      element.setPointerCapture(event.pointerId);
      moved = true;
      places.forEach((button, place) => button.classList.toggle('target', place === over(event)));
    };
    element.onpointerup = event => {
      places.forEach(button => button.classList.remove('target'));
      const place = over(event);
      if (start && moved && place >= 0) drop(what(), place);
      start = null;
    };
    element.onpointercancel = () => { start = null; places.forEach(button => button.classList.remove('target')); };
  }

  function choose(kind) {
    adding = kind;
    selected = -1;
    show(scene);
  }

  function press(place) {
    if (adding) return add(adding, place);
    if (!at(place) && at(selected)) return move(selected, place);
    selected = at(place) && selected !== place ? place : -1;
    show(scene);
  }

  function move(from, to) {
    selected = to;
    set(scene.things.map(thing => thing.place === from ? {...thing, place: to} : thing.place === to ? {...thing, place: from} : thing));
  }

  function add(kind, place) {
    adding = '';
    moved = false;
    selected = place;
    const rest = (scene?.things ?? []).filter(thing => thing.place !== place && thing.kind !== kind);
    change({context: $('context').value, ...scene, things: [...rest, {kind, colour: tables.traits[kind][0], place}], seed: 'by hand'});
  }

  function remove() {
    const things = scene.things.filter(thing => thing.place !== selected);
    selected = -1;
    set(things);
  }

  // A cue without its partner, beside the two bystanders of its place
  function trap(cue) {
    const context = world.home[cue], [, bystanders] = tables.contexts[context];
    selected = -1;
    change({context, seed: 'by hand', things: [cue, ...bystanders].map((kind, i) => ({kind, colour: tables.traits[kind][0], place: [3, 1, 8][i]}))});
  }

  function show(now) {
    scene = now;
    if (!at(selected)) selected = -1;
    places.forEach((button, place) => {
      const thing = at(place);
      button.setAttribute('aria-label', `${tables.places[place]}: ${thing ? `${thing.colour} ${thing.kind}` : 'empty'}`);
      button.setAttribute('aria-pressed', String(place === selected));
    });
    for (const button of $('things').children) button.setAttribute('aria-pressed', String(button.dataset.kind === adding));
    $('edit').hidden = selected < 0;
    if (selected >= 0) {
      $('edited').textContent = `The ${at(selected).kind}:`;
      $('colour').value = at(selected).colour;
    }
    if (scene) $('context').value = scene.context;
  }
  return show;
}
