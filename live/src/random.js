// @ts-check
// The random numbers of Python's `random` and of torch's CPU generator. Both are made from the Mersenne Twister, so a
// scene drawn here has the pixels that Python draws, and the noise of a seed is the course's noise of that seed.

const bytesOf = text => new TextEncoder().encode(text);

async function digest(kind, text) {
  return new Uint8Array(await crypto.subtle.digest(kind, bytesOf(text)));
}

class Twister {
  /** @param {number} seed */
  constructor(seed) {
    const state = this.state = new Uint32Array(624);
    state[0] = seed;
    for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    this.at = 624;
  }

  /** @param {Uint32Array} key */
  static ofKey(key) {
    const twister = new Twister(19650218), state = twister.state;
    const mixed = (i, factor) => state[i] ^ Math.imul(state[i - 1] ^ (state[i - 1] >>> 30), factor);
    let i = 1, j = 0;
    const next = () => { if (++i >= 624) { state[0] = state[623]; i = 1; } };
    for (let k = Math.max(624, key.length); k; k--) {
      state[i] = mixed(i, 1664525) + key[j] + j;
      next();
      j = (j + 1) % key.length;
    }
    for (let k = 623; k; k--) { state[i] = mixed(i, 1566083941) - i; next(); }
    state[0] = 0x80000000;
    return twister;
  }

  /** 32 random bits */
  next() {
    const state = this.state;
    if (this.at >= 624) {
      for (let i = 0; i < 624; i++) {
        const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
        state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }
}

/** Python's `random.Random(text)`: the methods that drawn scenes need, under Python's names */
export class Random {
  /** @param {string} text */
  static async of(text) {
    const own = bytesOf(text), whole = [...own, ...await digest('SHA-512', text)].reverse();
    const key = new Uint32Array(Math.ceil(whole.length / 4));
    whole.forEach((byte, i) => { key[i >> 2] |= byte << (8 * (i & 3)); });
    return new Random(Twister.ofKey(key));
  }

  /** @param {Twister} twister */
  constructor(twister) { this.twister = twister; }

  random() {
    const high = this.twister.next() >>> 5, low = this.twister.next() >>> 6;
    return (high * 67108864 + low) / 9007199254740992;
  }

  uniform(low, high) { return low + (high - low) * this.random(); }

  /** a whole number below `n` */
  below(n) {
    const bits = 32 - Math.clz32(n);
    for (;;) {
      const value = this.twister.next() >>> (32 - bits);
      if (value < n) return value;
    }
  }

  randint(low, high) { return low + this.below(high - low + 1); }

  choice(values) { return values[this.below(values.length)]; }

  sample(values, k) {
    const n = values.length, few = k > 5 ? 21 + 4 ** Math.ceil(Math.log(k * 3) / Math.log(4)) : 21, chosen = [];
    if (n <= few) {
      const pool = [...values];
      for (let i = 0; i < k; i++) {
        const j = this.below(n - i);
        chosen.push(pool[j]);
        pool[j] = pool[n - i - 1];
      }
      return chosen;
    }
    const taken = new Set();
    while (taken.size < k) {
      let j = this.below(n);
      while (taken.has(j)) j = this.below(n);
      taken.add(j);
      chosen.push(values[j]);
    }
    return chosen;
  }

  bytes(n) {
    const words = new Uint32Array(Math.ceil(n / 4));
    for (let i = 0; i < words.length; i++) words[i] = this.twister.next();
    if (n % 4) words[words.length - 1] >>>= 32 - 8 * (n % 4);
    return new Uint8Array(words.buffer, 0, n);
  }
}

/** The standard normal numbers of `noise.draw(shape, id, step, seed)`; `n` of them, at least 16 */
export async function normal(n, id, step, seed) {
  const key = `('${id}', ${step}, ${seed})`, bytes = await digest('SHA-256', key);      // Python's repr of the three
  const twister = new Twister(((bytes[3] << 24) | (bytes[4] << 16) | (bytes[5] << 8) | bytes[6]) >>> 0);
  const values = new Float32Array(n), draw = () => (twister.next() & 0xffffff) / 16777216;
  const turn = start => {                                                               // sixteen at a time, in pairs
    for (let j = start; j < start + 8; j++) {
      const radius = Math.sqrt(-2 * Math.log(1 - values[j])), angle = 2 * Math.PI * values[j + 8];
      values[j] = radius * Math.cos(angle);
      values[j + 8] = radius * Math.sin(angle);
    }
  };
  for (let i = 0; i < n; i++) values[i] = draw();
  for (let i = 0; i + 16 <= n; i += 16) turn(i);
  if (n % 16) {
    for (let i = n - 16; i < n; i++) values[i] = draw();
    turn(n - 16);
  }
  return values;
}
