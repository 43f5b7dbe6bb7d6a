// Imports a module of povid_nb/static as a page gets it: in one text with what the widgets share
import {readFileSync} from 'node:fs';

const text = name => readFileSync(new URL(`../../povid_nb/static/${name}`, import.meta.url), 'utf8').replace(/^import .*\n/gm, '');

export function load(name) {
  const source = Buffer.from(name === 'widget.js' ? text(name) : text('widget.js') + text(name));
  return import(`data:text/javascript;base64,${source.toString('base64')}`);
}
