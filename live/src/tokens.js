// @ts-check
// The built-in model's tokeniser: whole words, and bytes for what it has never seen (a unigram model, read from the
// same tokenizer.json).

const MARK = '\u2581', UNKNOWN = 10;

export class Tokens {
  /** @param {any} file the parsed tokenizer.json */
  constructor(file) {
    this.words = file.model.vocab.map(row => row[0]);
    this.ids = new Map(this.words.map((word, id) => [word, id]));
    this.scores = file.model.vocab.map(row => row[1]);
    this.special = file.added_tokens.map(token => token.content);
    this.worst = Math.min(...this.scores) - UNKNOWN;
    this.longest = Math.max(...this.words.map(word => word.length));
  }

  /** Token ids of a text @returns {number[]} */
  encode(text) {
    const pattern = new RegExp(`(${this.special.map(word => word.replace(/[|]/g, '\\|')).join('|')})`);
    let first = true;
    const ids = [];
    for (const part of text.split(pattern).filter(Boolean)) {
      if (this.special.includes(part)) ids.push(this.ids.get(part));
      else {
        const marked = part.replaceAll(' ', MARK), begun = first && !marked.startsWith(MARK) ? MARK + marked : marked;
        const pieces = begun.split(new RegExp(`(?=${MARK})`)).flatMap(piece => piece.split(/([\p{P}!-/:-@[-`{-~])/u));
        ids.push(...pieces.filter(Boolean).flatMap(piece => this.best(piece)));
      }
      first = false;
    }
    return ids;
  }

  // The most probable way to cut a piece into words of the vocabulary
  best(piece) {
    const chars = [...piece], found = [{score: 0, from: -1, word: ''}];
    for (let end = 1; end <= chars.length; end++) {
      let best = {score: -Infinity, from: -1, word: ''};
      for (let from = Math.max(0, end - this.longest); from < end; from++) {
        const word = chars.slice(from, end).join(''), id = this.ids.get(word);
        const own = id === undefined ? (end - from === 1 ? this.worst : -Infinity) : this.scores[id];
        if (found[from].score + own > best.score) best = {score: found[from].score + own, from, word};
      }
      found.push(best);
    }
    const words = [];
    for (let at = chars.length; at > 0; at = found[at].from) words.unshift(found[at].word);
    return words.flatMap(word => this.ids.has(word) ? [this.ids.get(word)] : [...new TextEncoder().encode(word)]
      .map(byte => this.ids.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)));
  }

  /** The text of some tokens; special ones say nothing. @param {number[]} ids */
  decode(ids, strip = true) {
    const bytes = [], encoder = new TextEncoder();
    for (const word of ids.map(id => this.words[id])) {
      if (this.special.includes(word)) continue;
      const byte = /^<0x([0-9A-F]{2})>$/.exec(word);
      if (byte) bytes.push(parseInt(byte[1], 16));
      else bytes.push(...encoder.encode(word.replaceAll(MARK, ' ')));
    }
    const text = new TextDecoder().decode(new Uint8Array(bytes));
    return strip && text.startsWith(' ') ? text.slice(1) : text;
  }

  /** The conversation up to where the answer begins */
  prompt(question) { return `<s>USER: <image> ${question} ASSISTANT:`; }
}
