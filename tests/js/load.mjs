// Imports a module of povid_nb/static as a browser would: as a module, whatever this Node makes of the ending .js
import {readFileSync} from 'node:fs';

export function load(name) {
  const source = readFileSync(new URL(`../../povid_nb/static/${name}`, import.meta.url));
  return import(`data:text/javascript;base64,${source.toString('base64')}`);
}
