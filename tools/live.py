"""Builds the live page, with the built-in model inside, into build/live, and compares it with torch:

    make live                      # or: python -m tools.live [--out FOLDER] [--scenes 100] [--no-compare]

Needs Node with npm, and `pip install "povid_nb[live]"`.
"""
import argparse, gzip, json, shutil, subprocess, sys
from pathlib import Path
import numpy as np

ROOT = Path(__file__).parents[1]
LIVE, OUT, RESULT = ROOT/"live", ROOT/"build"/"live", ROOT/"bench"/"results"/"live.json"
# adapter, scale
SETTINGS = [("base", 0), ("control", 1), ("stage1", 1), ("stage2", .5), ("stage2", 1), ("stage2", 1.5)]
LIMIT = 12e6      # bytes, compressed: model and runtime


def tables():
    "What the page must know of the drawn world, of noise, and of the processor"
    from povid_nb import noise, world
    config = json.loads((ROOT/"povid_nb"/"tiny"/"processor_config.json").read_text())["image_processor"]
    kept = noise._scheduler("sigmoid").alphas_cumprod
    return dict(colours=world.COLOURS, contexts=world.CONTEXTS, traits=world.TRAITS, places=world.PLACES,
                tints=world._TINTS,
                grounds=world._GROUNDS, drawings=world._drawings(), odds=world._ODDS, strength=world._STRENGTH,
                mean=config["image_mean"], std=config["image_std"], kept=kept.tolist())


def build(out):
    "The graphs, the tables, and the page; returns their paths"
    try: from tools.onnx_model import TINY, export
    except ImportError as error:
        sys.exit(f"{error.name} was not found; install what the export needs: {sys.executable} -m pip install -e "
                 f"'.[live]'")
    if not shutil.which("npm"):
        sys.exit("npm was not found; the page is built with Node 20 or newer: https://nodejs.org")
    export(out)
    (out/"world.json").write_text(json.dumps(tables(), separators=(",", ":")))
    shutil.copy(TINY/"tokenizer.json", out/"tokenizer.json")
    if not (LIVE/"node_modules").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=LIVE, check=True)
    subprocess.run(["node", "build.mjs", str(out)], cwd=LIVE, check=True)
    return sorted(path for path in out.iterdir() if path.is_file())


def sizes(paths):
    "Bytes of each file, and of its gzip form"
    return {path.name: (path.stat().st_size, len(gzip.compress(path.read_bytes(), 9))) for path in paths}


# ---- Against torch --------------------------------------------------------------------------------------------------

class Runtime:
    "The two graphs in onnxruntime, with the verbs that are compared"
    def __init__(self, folder): self.see, self.speak = (self.session(folder, name) for name in ("see", "speak"))

    @staticmethod
    def session(folder, name):
        import onnxruntime
        options, weights = onnxruntime.SessionOptions(), np.fromfile(folder/f"{name}.bin",
            np.float16).astype(np.float32).tobytes()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.add_external_initializers_from_files_in_memory([f"{name}.bin"], [weights], [len(weights)])
        return onnxruntime.InferenceSession((folder/f"{name}.onnx").read_bytes(), options)

    def features(self, pixels): return self.see.run(None, {"pixels": pixels})[0]

    def read(self, ids, features, gains, past=None, start=0):
        past = [np.zeros((1, 6, 0, 32), np.float32)] * 8 if past is None else past
        feeds = dict(ids=np.asarray(ids), features=features, gains=np.asarray(gains, np.float32),
                     start=np.array([start]))
        logits, *rest = self.speak.run(None, feeds | {f"past_{i}": part for i, part in enumerate(past)})
        return logits, rest[:8]

    def write(self, ids, features, gains, end, longest=128):
        logits, past, written = *self.read(ids, features, gains), []
        while len(written) < longest and (token := int(logits[-1].argmax())) != end:
            written.append(token)
            logits, past = self.read([token], features, gains, past)
        return written


def compare(folder, n=100):
    "How far the graphs are from torch: rows of the table, the captions that torch writes, and the scenes' pictures"
    import torch
    from peft.helpers import rescale_adapter_scale
    from povid_nb import world
    from povid_nb.vlm import VLM
    from tools.onnx_model import GAINS
    runtime, scenes, rows, captions = Runtime(folder), world.scenes("counter", "test", n), [], {}
    for adapter, scale in SETTINGS:
        vlm = VLM.load(adapter=None if adapter == "base" else adapter)
        gains = np.array(GAINS[adapter]) * scale
        with rescale_adapter_scale(vlm.model, scale) if adapter != "base" else torch.no_grad():
            texts = vlm.describe(scenes, batch_size=50)
            far, tower, same = 0, 0, 0
            for scene, text in zip(scenes, texts):
                batch = vlm.inputs(scene, world.DESCRIBE, text)
                start = int(batch.pop("answer_mask")[0].nonzero()[0])
                features = runtime.features(batch["pixel_values"].numpy())
                with vlm.reading():
                    logits, seen = vlm.model(**batch).logits[0], vlm.image_features(batch).pooler_output[0]
                ids = batch["input_ids"][0].numpy()
                far = max(far, float(np.abs(runtime.read(ids, features, gains)[0] - logits.numpy()).max()))
                tower = max(tower, float(np.abs(features - seen.numpy()).max()))
                written = runtime.write(ids[:start], features, gains, vlm.end_id())
                same += vlm.tokenizer.decode(written, skip_special_tokens=True).strip() == text
        captions[f"{adapter} {scale:g}"] = texts
        rows.append(dict(adapter=adapter, scale=scale, tower=tower, logits=far, same=same, n=n))
    return rows, captions, b"".join(scene.image().tobytes() for scene in scenes)


def compare_page(folder, captions, pictures):
    """The same in the page's own runtime, by Node: {setting: same captions of Python's pictures, and of its own
    drawings}"""
    given = {folder/"captions.json": json.dumps(captions).encode(), folder/"pictures.bin": pictures}
    for path, data in given.items(): path.write_bytes(data)
    try:
        done = subprocess.run(["node", "compare.mjs", str(folder), *map(str, given)], cwd=LIVE, check=True,
                              capture_output=True, text=True)
    finally: [path.unlink() for path in given]
    return json.loads(done.stdout)


def report(result):
    "The table, as text"
    lines = ["ONNX against torch",
             f"{'adapter':9} {'scale':>5} {'features':>9} {'logits':>9} {'same caption':>13} {'in the page':>12} "
             f"{'its drawings':>13}"]
    for row in result["rows"]:
        same, drawn = result["page"][f"{row['adapter']} {row['scale']:g}"]
        lines.append(f"{row['adapter']:9} {row['scale']:5} {row['tower']:9.1e} {row['logits']:9.1e} "
                     f"{row['same']:9}/{row['n']} {same:8}/{row['n']} {drawn:9}/{row['n']}")
    lines += [f"{name:30} {raw / 1e6:6.2f} MB, {packed / 1e6:5.2f} MB compressed"
              for name, (raw, packed) in result["sizes"].items()]
    return "\n".join([*lines, f"together {result['compressed'] / 1e6:.2f} MB compressed (at most {LIMIT / 1e6:.0f})"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--no-compare", action="store_true")
    args = parser.parse_args()
    files = sizes(build(args.out))
    packed = sum(value[1] for value in files.values())
    if packed > LIMIT:
        sys.exit(f"the live page weighs {packed / 1e6:.2f} MB compressed; at most {LIMIT / 1e6:.0f} are allowed")
    print(f"{args.out}: {packed / 1e6:.2f} MB compressed")
    if args.no_compare: return
    from povid_nb import stats
    rows, captions, pictures = compare(args.out, args.scenes)
    result = dict(rows=rows, page=compare_page(args.out, captions, pictures), sizes=files, compressed=packed,
                  command="make live", versions=stats.versions())
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(report(result))


if __name__ == "__main__": main()
