// @ts-check
// The drawn world: scenes, what is missing from them, and how they are described. The tables come from Python
// (world.json, written by `make live`); everything random is drawn as Python draws it, so scene 12 here is scene 12 there.
import {Random} from './random.js';

/** @typedef {{kind: string, colour: string, place: number}} Thing */
/** @typedef {{things: Thing[], context: string, seed: string}} Scene */

export class World {
  /** @param {any} tables */
  constructor(tables) {
    this.tables = tables;
    this.colours = Object.keys(tables.colours);
    this.contexts = Object.keys(tables.contexts);
    this.partners = Object.assign({}, ...this.contexts.map(name => tables.contexts[name][0]));
    this.home = {};
    for (const name of this.contexts) {
      const [habits, bystanders] = tables.contexts[name];
      for (const kind of [...Object.keys(habits), ...Object.values(habits), ...bystanders]) this.home[kind] = name;
    }
    this.kinds = Object.keys(this.home);
  }

  /** @param {Scene} scene */
  objects(scene) { return new Set(scene.things.map(thing => thing.kind)); }

  /** What usually stands beside a thing that is there, and is not there itself. @param {Scene} scene */
  missing(scene) {
    const there = this.objects(scene);
    return scene.things.map(thing => this.partners[thing.kind]).filter(kind => kind && !there.has(kind));
  }

  /** Where a text names kinds of things: [start, end, kind] */
  mentions(text) {
    const found = text.matchAll(new RegExp(`\\b(${this.kinds.join('|')})\\b`, 'g'));
    return [...found].map(match => [match.index, match.index + match[0].length, match[0]]);
  }

  /** @returns {Promise<Scene>} */
  async scene(split, part, number) {
    const seed = `${part}/${number}`, rng = await Random.of(`${split}/${seed}`), {traits} = this.tables;
    const context = rng.choice(this.contexts), kinds = this.sample(split, context, rng);
    const places = rng.sample([...Array(9).keys()], kinds.length), usual = split === 'random' ? 0 : 0.5;
    const colour = kind => rng.random() < usual ? traits[kind][0] : rng.choice(this.colours);
    return {things: kinds.map((kind, i) => ({kind, colour: colour(kind), place: places[i]})), context,
      seed: `${split}/${seed}`};
  }

  sample(split, context, rng) {
    if (split === 'random') return rng.sample(this.kinds, rng.randint(2, 6));
    const [habits, bystanders] = this.tables.contexts[context], {odds, strength} = this.tables;
    for (;;) {
      let kinds = bystanders.filter(() => rng.random() < odds.bystander);
      for (const [cue, partner] of Object.entries(habits)) {
        const present = rng.random() < odds.cue, beside = rng.random() < (present ? strength : 1.2 * (1 - strength));
        if (present) kinds.push(cue);
        if (beside) kinds.push(partner);
      }
      const stranger = rng.choice(this.strangers(context, kinds));      // drawn before it is known whether it comes
      if (rng.random() < odds.stranger) kinds.push(stranger);
      if (split === 'counter') kinds = this.breakHabits(kinds, habits, bystanders, rng);
      if (kinds && kinds.length >= 2 && kinds.length <= 6) return kinds;
    }
  }

  strangers(context, kinds) { return this.kinds.filter(kind => this.home[kind] !== context && !kinds.includes(kind)); }

  breakHabits(kinds, habits, bystanders, rng) {
    const cues = Object.keys(habits).filter(cue => kinds.includes(cue)), gone = cues.map(cue => habits[cue]);
    if (!cues.length) return null;
    const result = kinds.filter(kind => !gone.includes(kind));
    while (result.length < kinds.length) {
      const free = bystanders.filter(kind => !result.includes(kind));
      result.push(rng.choice(free.length ? free : this.strangers(this.home[bystanders[0]], result)));
    }
    return result;
  }

  /** The right description, as `Scene.caption()` writes it. @param {Scene} scene */
  async caption(scene, purpose = 'caption') {
    const rng = await Random.of(`${scene.seed}/${purpose}`), {places} = this.tables;
    const phrases = [rng.choice(['A photo of a {}.', 'This is a picture of a {}.', 'We see a {}.']).replace('{}', scene.context)];
    const capital = text => text[0].toUpperCase() + text.slice(1), order = this.order(scene.things, rng);
    order.forEach(() => rng.random());                                  // Python asks each time whether a colour slips
    let previous = null;
    for (const thing of order) {
      const name = `${thing.colour} ${thing.kind}`, where = places[thing.place];
      const forms = [`There is a ${name} ${where}.`, `A ${name} is ${where}.`, `${capital(where)} is a ${name}.`,
        `We can see a ${name} ${where}.`];
      if (previous) {
        forms.push(`A ${name} is ${relation(thing, previous)} the ${previous.colour} ${previous.kind}.`,
          `There is also a ${name} ${where}.`);
        if (this.partners[previous.kind] === thing.kind) forms.push(`Next to it is a ${name}.`, `A ${name} is beside it.`);
      }
      phrases.push(rng.choice(forms));
      if (this.missing(scene).includes(this.partners[thing.kind])) rng.random();
      previous = thing;
    }
    return phrases.join(' ');
  }

  order(things, rng) {
    const order = rng.sample(things, things.length);
    for (const cue of order.filter(thing => this.partners[thing.kind])) {
      const partner = order.find(thing => thing.kind === this.partners[cue.kind]);
      if (partner && rng.random() < 0.75) {
        order.splice(order.indexOf(partner), 1);
        order.splice(order.indexOf(cue) + 1, 0, partner);
      }
    }
    return order;
  }

  /** How often captions name what is not there, as CHAIR counts it: {captions, hallucinate, mentions, wrong, there, named} */
  chair(rows) {
    const sums = {captions: 0, hallucinate: 0, mentions: 0, wrong: 0, there: 0, named: 0};
    for (const {scene, text} of rows) {
      const there = this.objects(scene), said = this.mentions(text).map(mention => mention[2]);
      const wrong = said.filter(kind => !there.has(kind)).length;
      sums.captions += 1;
      sums.hallucinate += Number(wrong > 0);
      sums.mentions += said.length;
      sums.wrong += wrong;
      sums.there += there.size;
      sums.named += [...there].filter(kind => said.includes(kind)).length;
    }
    return sums;
  }
}

function relation(thing, other) {
  const rows = Math.floor(thing.place / 3) - Math.floor(other.place / 3), columns = thing.place % 3 - other.place % 3;
  if (Math.abs(columns) >= Math.abs(rows)) return columns < 0 ? 'left of' : 'right of';
  return rows < 0 ? 'above' : 'below';
}
