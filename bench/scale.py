"""`python -m bench scale`: how the cost of a step grows with the work, and what that means for large runs."""
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from . import contestants, measure, shapes

BASE = replace(shapes.LLAVA_2K, batch=2)
SERIES = {   # what varies, how it is called, and its values
    "answer": ("answer length, tokens", lambda n: replace(BASE, answer=n), (12, 24, 48, 96, 192)),
    "picture": ("picture, tokens", lambda side: replace(BASE, side=side), (6, 8, 12, 16, 20)),
    "batch": ("batch, pairs", lambda n: replace(BASE, batch=n), (1, 2, 4, 8)),
    "model": ("language model, parameters", lambda width: replace(BASE, text=(width, int(width * 2.6875), 6, width // 32)), (64, 128, 256, 384)),
}
# A run of the paper: 17K pairs, three epochs of DPO and one with noise, on a model of LLaVA-1.5-7B's shape (SPEED: operations by formula)
RUNS = {"17K pairs (the paper)": 17_000, "1M pairs": 1_000_000, "100M pairs": 100_000_000}


def exponent(x, y):
    "The slope in a log-log picture: 1 is proportional"
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def series(make, values, rounds):
    "Milliseconds and operations of one released-form step for each value, measured in turns"
    group = {v: contestants.Ours(make(v), "released") for v in values}
    took = measure.alternating({v: c.step for v, c in group.items()}, rounds)
    return {v: {"ms": 1e3 * min(took[v]), "gflop": measure.operations(c.step) / 1e9, "parameters": sum(p.numel() for p in c.vlm.part("language_model").parameters())} for v, c in group.items()}


def pairs_series(counts=(8, 16, 32, 64), steps=4):
    "Seconds to prepare and to keep the reference of so many pairs, and to pass over them once"
    import tempfile
    from povid_nb import branches
    found = {}
    vlm = shapes.build(replace(BASE, side=6, answer=16))
    scorer = branches.Branches(vlm)
    for n in counts:
        some = shapes.pairs(replace(BASE, side=6, answer=16), n)
        with tempfile.TemporaryDirectory() as folder:
            cache = branches.Cache(folder, scorer)
            rows = []
            found[n] = {"encode_ms": 1e3 * measure.seconds(lambda: rows.extend(branches.encode(vlm, p) for p in some)), "cache_ms": 1e3 * measure.seconds(lambda: cache.fill(rows)),
                        "kilobytes": sum(f.stat().st_size for f in cache.folder.iterdir()) / 1e3}
    return found


def formula(shape, form="released", cached=True, checkpointing=True):
    "Operations of one pair by counting matrix products: each parameter twice for each token, once more for the way back through frozen weights"
    width, inner, layers, heads = shape.text
    language = layers * (4 * width**2 + 3 * width * inner)
    vision_width, vision_inner, vision_layers, _ = shape.tower
    look = 2 * (shape.image_tokens + 1) * (vision_layers - 1) * (4 * vision_width**2 + 2 * vision_width * vision_inner)
    stem, answer = shape.image_tokens + shape.prompt, shape.answer
    packed, noisy = stem + 2 * answer, stem + answer
    learn = packed * (3 if checkpointing else 2)
    read = learn + (noisy if form == "released" else 0) + (0 if cached else packed)
    return 2 * language * read + look * ((form == "released") + (not cached)) + 2 * width * shape.vocabulary * answer * 4


def large_runs(shape=shapes.LLAVA_7B, rates=((1, 4e14), (8, 4e14), (64, 4e14), (1024, 4e14))):
    "Hours of whole runs on GPUs that do 400 TFLOP/s in practice each, by arithmetic; nothing here is measured"
    per_pair = {"dpo": formula(shape, "dpo"), "released": formula(shape)}
    first = formula(shape, "dpo", cached=False) - per_pair["dpo"]
    out = {}
    for name, pairs in RUNS.items():
        total = pairs * (3 * per_pair["dpo"] + per_pair["released"] + 2 * first)   # each stage has a reference of its own
        out[name] = {"exaflop": total / 1e18, **{f"hours on {gpus} GPU{'s' * (gpus > 1)}": total / (gpus * rate) / 3600 for gpus, rate in rates},
                     "cache_gb": pairs * shape.answer * shape.text[0] * 2 / 1e9}
    return out


def page(found):
    "The numbers as one page"
    from povid_nb import viz
    import matplotlib.pyplot as plt
    viz.style()
    fig, axes = plt.subplots(1, len(SERIES), figsize=(12, 3), layout="constrained")
    for ax, (name, (title, _, _)) in zip(axes, SERIES.items()):
        x, y = found[name]["x"], found[name]["ms"]
        ax.loglog(x, y, "o-"); ax.set(title=f"{title}: exponent {found[name]['exponent']:.2f}", xlabel=title, ylabel="ms per step"); ax.title.set_fontsize(9)
    runs = found["large"]
    head = ["run", *next(iter(runs.values()))]
    body = [[name, *(f"{v:,.2g}" if v < 10 else f"{v:,.0f}" for v in row.values())] for name, row in runs.items()]
    pairs = [[str(n), *(f"{v:.0f}" for v in row.values())] for n, row in found["pairs"].items()]
    return viz.page("How training grows", "<h1>How training grows</h1>",
        "<p>One step of POVID's released form, uncached, on a random model with LLaVA-1.5's proportions. Every point is the best of its rounds in process CPU time; the exponent is the slope of the line (1: proportional).</p>",
        viz.picture(fig, "Four log-log plots: cost of a step against answer length, picture tokens, batch size and model size"),
        "<h2>Pairs</h2><p>Preparation and cache grow with the number of pairs alone. CPU milliseconds for all, on a small shape:</p>", viz.table(pairs, ["pairs", "encode, ms", "cache, ms", "on disk, kB"]),
        "<h2>Large runs</h2><p>By arithmetic, <b>not measured</b>: LLaVA-1.5-7B's shape, three epochs of text and one with noise, reference cached once for each stage, gradient checkpointing, "
        "and GPUs that do 400 TFLOP/s in practice, all of them busy all the time. Communication is that of the LoRA gradient, some hundred megabytes a step, "
        "and small beside the work of a step. The cache is cut by pairs, each process writes its own files.</p>", viz.table(body, head),
        f"<p class='note'>{found['machine']['device']}, {found['machine']['threads']} thread; torch {found['machine']['torch']}, transformers {found['machine']['transformers']}; {found['machine']['date']}. Made by <code>python -m bench scale</code>.</p>")


def main(args):
    torch.set_num_threads(args.threads)
    start, found = time.time(), {}
    for name, (title, make, values) in SERIES.items():
        if args.quick: values = values[1:4]
        rows = series(make, values, args.rounds or 2)
        x = [v**2 if name == "picture" else r["parameters"] if name == "model" else v for v, r in rows.items()]
        found[name] = {"x": x, "ms": [r["ms"] for r in rows.values()], "gflop": [r["gflop"] for r in rows.values()]}
        found[name] |= {"exponent": exponent(x, found[name]["ms"]), "exponent_of_operations": exponent(x, found[name]["gflop"])}
        print(f"{title:28} {[round(v) for v in found[name]['x']]}: {[round(v) for v in found[name]['ms']]} ms, exponent {found[name]['exponent']:.2f} (operations {found[name]['exponent_of_operations']:.2f})", flush=True)
    found["pairs"] = pairs_series((4, 8, 16) if args.quick else (8, 16, 32, 64))
    found |= {"large": large_runs(), "machine": measure.machine(), "minutes": (time.time() - start) / 60}
    for name, row in found["large"].items(): print(f"{name}: {row['exaflop']:.3g} EFLOP, {row['hours on 8 GPUs']:.3g} hours on 8 GPUs (arithmetic, not measured)")
    if args.json:
        measure.keep(found, args.json)
        Path(args.json).with_suffix(".html").write_text(page(found))
