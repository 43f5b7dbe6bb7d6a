// @ts-check
// Calls into the model's thread: `ask(verb, args)` resolves to its answer; `onPart` gets what comes before the end.

/** @param {Worker} worker */
export function asker(worker) {
  const waiting = new Map();
  let last = 0;
  worker.onmessage = ({data: {id, value, part, error}}) => {
    const {resolve, reject, onPart} = waiting.get(id);
    if (part !== undefined) { onPart?.(part); return; }
    waiting.delete(id);
    if (error === undefined) resolve(value);
    else reject(new Error(error));
  };
  worker.onerror = event => { for (const {reject} of waiting.values()) reject(new Error(event.message || 'the model could not be loaded')); };
  return (verb, args = {}, onPart = undefined) => new Promise((resolve, reject) => {
    waiting.set(++last, {resolve, reject, onPart});
    worker.postMessage({id: last, verb, args});
  });
}

/** Only the newest of many calls counts: `latest()(work)` runs it when the one before is done, and skips those between */
export function latest() {
  let busy = false, next = null;
  const run = async work => {
    if (busy) { next = work; return; }
    busy = true;
    try { await work(); } finally {
      busy = false;
      if (next) { const waiting = next; next = null; run(waiting); }
    }
  };
  return run;
}
