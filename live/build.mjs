// node build.mjs FOLDER: the page, its worker and the runtime, into a folder that any static server can serve
import {copyFileSync, readFileSync, writeFileSync} from 'node:fs';
import {build} from 'esbuild';

const folder = process.argv[2];
await build({entryPoints: ['src/live.js', 'src/worker.js'], outdir: folder, bundle: true, format: 'esm', minify: true,
  target: 'es2022', legalComments: 'none', logLevel: 'error', loader: {'.css': 'text'}});
for (const name of ['ort-wasm-simd-threaded.wasm', 'ort-wasm-simd-threaded.mjs']) {
  copyFileSync(`node_modules/onnxruntime-web/dist/${name}`, `${folder}/${name}`);
}
copyFileSync('src/live.css', `${folder}/live.css`);
copyFileSync('../nbs/images/live.png', `${folder}/live.png`);     // what readers see where the page cannot run
writeFileSync(`${folder}/live.html`, readFileSync('src/live.html'));
