// @ts-check
// What the page shows, and the same as an address: #scene=table;red.cup.3;grey.fork.5&adapter=stage2&dial=1&noise=300

export const START = {scene: null, course: '', adapter: 'stage2', dial: 0, noise: -1, seed: 0, space: 'pixels', overflow: 'clamp', at: -1};
const NUMBERS = {dial: [0, 1.5], noise: [-1, 999], seed: [0, 9999], at: [-1, 200]};
const CHOICES = {adapter: ['control', 'stage1', 'stage2'], space: ['pixels', 'processed'], overflow: ['clamp', 'wrap', 'none']};

/** @param {typeof START & {scene: any}} state */
export function toHash(state) {
  const parts = [];
  if (state.course) parts.push(`course=${state.course}`);
  else if (state.scene) parts.push(`scene=${[state.scene.context, ...state.scene.things.map(t => `${t.colour}.${t.kind}.${t.place}`)].join(';')}`);
  for (const name of ['adapter', 'dial', 'noise', 'seed', 'space', 'overflow', 'at']) if (state[name] !== START[name]) parts.push(`${name}=${state[name]}`);
  return `#${parts.join('&')}`;
}

/** What an address says, as far as it makes sense; the rest is as at the start. @param {any} tables */
export function fromHash(hash, tables) {
  const given = new URLSearchParams(hash.replace(/^#/, '')), state = {...START};
  for (const [name, [low, high]] of Object.entries(NUMBERS)) {
    const value = Number(given.get(name) ?? NaN);
    if (given.get(name) && value >= low && value <= high) state[name] = name === 'dial' ? value : Math.round(value);
  }
  for (const [name, choices] of Object.entries(CHOICES)) if (choices.includes(given.get(name) ?? '')) state[name] = given.get(name);
  const course = /^(typical|counter|random)\/(train|pairs|validation|test)\/(\d{1,5})$/.exec(given.get('course') ?? '');
  if (course) state.course = course[0];
  else if (given.get('scene')) state.scene = sceneOf(given.get('scene'), tables);
  return state;
}

function sceneOf(text, tables) {
  const [context, ...rest] = text.split(';'), things = [], kinds = Object.keys(tables.traits);
  if (!(context in tables.contexts)) return null;
  for (const [colour, kind, place] of rest.map(part => part.split('.'))) {
    const free = !things.some(thing => thing.kind === kind || thing.place === Number(place));
    if (colour in tables.colours && kinds.includes(kind) && /^[0-8]$/.test(place) && free) things.push({kind, colour, place: Number(place)});
  }
  return {things, context, seed: 'by hand'};
}

/** -log sigmoid of POVID's margin, in the paper's form: alpha 0.1, beta1 and beta2 0.05 */
export function povidLoss({policy, reference}, beta = 0.1) {
  const gain = Object.fromEntries(Object.keys(policy).map(name => [name, policy[name] - reference[name]]));
  const margin = beta * gain.chosen - beta / 2 * (gain.rejected + gain.noise);
  return {gain, margin, loss: Math.log1p(Math.exp(-Math.abs(margin))) + Math.max(0, -margin)};
}
