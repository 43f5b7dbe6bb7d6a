// What the pages of the widgets share: numbers, elements, and a model where there is no kernel.

// A digit behind the point where it tells something
export const percent = (p, digits = p < .0995 && p >= .0005 ? 1 : 0) => `${(100 * p).toFixed(digits)}%`;

/**
 * An element with its properties, and with attributes where only those will do
 * @returns {any}
 */
export function tag(name, props = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (key.includes('-') || ['role', 'scope', 'style'].includes(key)) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

export const labelled = (text, control) => tag('label', {}, tag('span', {textContent: text}), control);

// The options of a menu, [value, text], and the chosen one; those that are not enabled cannot be chosen
export function fill(select, options, value, enabled = _ => true) {
  const same = options.length === select.children.length
    && options.every(([, text], i) => select.children[i].textContent === String(text));
  if (!same) select.replaceChildren(...options.map(([v, text]) => tag('option', {value: v, textContent: text})));
  for (const option of select.children) option.disabled = !enabled(option.value);
  select.value = String(value);
}

// A page without a kernel: nobody answers, and what was computed ahead is all there is
export const still = state => ({
  get: name => state[name],
  set: (name, value) => { state[name] = value; },
  save_changes() {},
  on() {}});
