// npx eslint -c tests/js/eslint.config.mjs povid_nb/static tests/js
const names = ['document', 'atob', 'FileReader', 'setTimeout', 'clearTimeout', 'Buffer', 'URL'];
const rules = [
  'constructor-super', 'eqeqeq', 'no-const-assign', 'no-dupe-args', 'no-dupe-keys', 'no-duplicate-case', 'no-empty',
  'no-fallthrough', 'no-func-assign', 'no-redeclare', 'no-self-assign', 'no-undef', 'no-unreachable',
  'no-unsafe-finally', 'no-unused-vars', 'no-use-before-define', 'no-useless-escape', 'no-var', 'prefer-const',
  'use-isnan', 'valid-typeof'];

export default [{
  languageOptions: {globals: Object.fromEntries(names.map(name => [name, 'readonly']))},
  rules: {
    ...Object.fromEntries(rules.map(rule => [rule, 'error'])),
    'no-use-before-define': ['error', {functions: false}],
    'max-len': ['error', {code: 119}]}}];
