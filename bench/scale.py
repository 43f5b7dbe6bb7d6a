"""`python -m bench scale`: how the cost of a step grows with the work, and what that means for large runs."""
import tempfile, time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from povid_nb.stages import train

from . import contestants, measure, shapes

BASE = replace(shapes.LLAVA_2K, batch=2)
SERIES = {   # what varies: its name, a shape for each value, and the values
    "answer": ("answer, tokens", lambda n: replace(BASE, answer=n), (12, 24, 48, 96, 192)),
    "picture": ("picture, tokens", lambda side: replace(BASE, side=side), (6, 8, 12, 16, 20)),
    "batch": ("batch, pairs", lambda n: replace(BASE, batch=n), (1, 2, 4, 8)),
    "model": ("language model, weights",
              lambda width: replace(BASE, text=(width, int(width * 2.6875), 6, width // 32)), (64, 128, 256, 384)),
}


def exponent(x, y):
    "The slope in a log-log picture: 1 is proportional"
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def series(name, rounds, quick=False):
    """One step of the released form, uncached, for each value, in turns: what varies, milliseconds, operations, the
    exponents of both"""
    title, make, values = SERIES[name]
    group = {v: contestants.Ours(make(v), "released") for v in (values[1:4] if quick else values)}
    for one in group.values(): one.step()   # not measured
    took = measure.alternating({v: one.step for v, one in group.items()}, rounds)
    size = lambda v, one: {"picture": one.shape.image_tokens,
                           "model": sum(p.numel() for p in one.vlm.part("language_model").parameters())}.get(name, v)
    x, ms = [size(v, one) for v, one in group.items()], [1e3 * measure.middle(took[v]) for v in group]
    gflop = [measure.operations(one.step) / 1e9 for one in group.values()]
    return {"title": title, "x": x, "ms": ms, "gflop": gflop, "exponent": exponent(x, ms),
            "exponent_of_operations": exponent(x, gflop)}


def pairs_series(counts):
    "A whole run on so many pairs, one epoch with noise and a cached reference: its CPU time, and the cache on disk"
    shape, ms, kilobytes = replace(BASE, side=6, answer=16, batch=1), [], []
    run = lambda n, folder: train(shapes.build(shape), shapes.pairs(shape, n), folder, stage=2, form="released",
                                  cache="reference", batch_size=4, rank=shape.rank, save_strategy="no",
                                  disable_tqdm=True)
    with tempfile.TemporaryDirectory() as folder: run(4, folder)   # not measured
    for n in counts:
        with tempfile.TemporaryDirectory() as folder:
            ms.append(1e3 * measure.seconds(lambda: run(n, folder)))
            kilobytes.append(sum(f.stat().st_size for f in Path(folder).glob("stage2/cache/**/*.safetensors")) / 1e3)
    return {"title": "pairs, a whole run", "x": list(counts), "ms": ms, "kilobytes": kilobytes,
            "exponent": exponent(counts, ms)}


# ---- Large runs, by arithmetic --------------------------------------------------------------------------------------

RUNS = {"17K pairs (the paper)": 17_000, "1M pairs": 1_000_000, "100M pairs": 100_000_000}
GPUS = (1, 8, 64, 1024)
RATE, WIRE = 4e14, 5e10   # assumed of each GPU: 400 TFLOP/s in bf16 (about 40 % of an H100's peak), 50 GB/s to others


def adapter_weights(shape):
    width, inner, layers, _ = shape.text
    return layers * shape.rank * (4 * 2 * width + 3 * (width + inner))

def arithmetic(shape, form, cached=True, checkpointing=True):
    """Operations of a pair, by counting: two for each weight and token forward; as many again back through frozen
    weights, and again where the forward is repeated"""
    width, inner, layers, _ = shape.text
    stem, answer, noisy = shape.image_tokens + shape.prompt, shape.answer, form == "released"
    packed = stem + 2 * answer
    # of a token: weights, and looking at those before it
    plain = 2 * layers * (4 * width**2 + 3 * width * inner + 2 * width * stem)
    learnt = plain + 2 * adapter_weights(shape)
    language = (packed * (learnt * (2 if checkpointing else 1) + plain + 4 * adapter_weights(shape))
                + noisy * (stem + answer) * learnt + (not cached) * packed * plain)
    vision_width, vision_inner, vision_layers, _ = shape.tower
    look = 2 * (shape.image_tokens + 1) * (vision_layers - 1) * (4 * vision_width**2 + 2 * vision_width * vision_inner
        + 2 * vision_width * shape.image_tokens)
    project = 2 * shape.image_tokens * (vision_width * width + width**2)
    # both answers there and back, the noisy answer, and the reference
    head = 2 * width * shape.vocabulary * answer * (4 + noisy + (noisy if cached else 2))
    return language + (look + project) * (noisy + (not cached)) + head


PAPER = replace(shapes.LLAVA_7B, rank=128)

def large_run(pairs, shape=PAPER):
    """Three epochs of text and one with noise, the reference of each stage computed once: operations, hours, and
    the cache. Nothing of it is measured"""
    once = {form: arithmetic(shape, form) for form in ("dpo", "released")}
    reference = arithmetic(shape, "dpo", cached=False) - once["dpo"]
    total = pairs * (3 * once["dpo"] + once["released"] + 2 * reference)
    return {"exaflop": total / 1e18, "cache_gb": pairs * shape.answer * shape.text[0] * 2 / 1e9,
            "hours": {n: total / (n * RATE) / 3600 for n in GPUS}}


def step_on_a_cluster(shape=PAPER):
    """Seconds of a step of one pair for each GPU: the work, and the adapter's gradient around the ring (bf16). Not
    measured"""
    return {"adapter_weights": adapter_weights(shape), "work": arithmetic(shape, "dpo") / RATE,
            "wire": 2 * 2 * adapter_weights(shape) / WIRE}


def main(args):
    torch.set_num_threads(1)
    started, found = time.time(), {}
    for name in SERIES:
        found[name] = one = series(name, args.rounds or 3, args.quick)
        print(f"{one['title']:25}{one['x']}: {[round(v) for v in one['ms']]} ms a step, exponent "
              f"{one['exponent']:.2f} (of operations {one['exponent_of_operations']:.2f})", flush=True)
    found["pairs"] = one = pairs_series((8, 16, 32) if args.quick else (64, 128, 256, 512))
    print(f"{one['title']:25}{one['x']}: {[round(v) for v in one['ms']]} ms, exponent {one['exponent']:.2f}",
          flush=True)
    found |= {"large": {name: large_run(n) for name, n in RUNS.items()}, "cluster": step_on_a_cluster()}
    for name, run in found["large"].items():
        print(f"{name}: {run['exaflop']:.3g} EFLOP, {run['hours'][8]:.3g} hours on 8 GPUs (arithmetic, not measured)")
    found |= {"machine": measure.machine(), "clock": measure.CLOCK, "minutes": (time.time() - started) / 60}
    if args.json: measure.keep(found, args.json)
