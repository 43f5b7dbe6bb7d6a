"""`python -m bench train`: one step of every contestant on the same work, in turns."""
import gc, statistics, time
from dataclasses import replace

import torch

from . import contestants, measure, shapes
from .contestants import FORMS

TITLES = {"trl": "TRL", "released": "released algorithm, restated", "ours": "ours",
          "ours_reference_cached": "ours, reference cached", "ours_cached": "ours, features cached too"}
QUICK = {"dpo": ("trl", "ours", "ours_cached"), "released": ("trl", "released", "ours", "ours_cached")}


def compare(shape, form, rounds, names=None, whole=True, device="cpu", **options):
    "A row for every contestant: on a CPU in turns; on a GPU, which may not hold two of them, one after the other"
    names = names or FORMS[form]
    groups = [names] if device == "cpu" else [[name] for name in names]
    rows, first = {}, None
    for names in groups:
        try: made, first = rows_of(shape, form, rounds, names, first, whole, device, **options)
        except torch.cuda.OutOfMemoryError: made = {name: "not measured: out of memory" for name in names}
        rows |= made
        gc.collect()
        if device != "cpu": torch.cuda.empty_cache()
    return rows


def rows_of(shape, form, rounds, names, first, whole, device, **options):
    "The rows of contestants that stand side by side, and the gradient that all are compared with"
    group = {name: contestants.CONTESTANTS[name](shape, form, device, **options) for name in names}
    rate = measure.matrix_rate(device, options.get("dtype", torch.float32))
    agree = {}
    for name, contestant in group.items():
        first, agree[name] = difference(contestant.gradients(), first)   # a first step, and not a measured one
    took = measure.alternating({name: c.step for name, c in group.items()}, rounds, device)
    return ({name: row(c, took[name], rate, whole, device) | against(took.get("trl"), took[name]) | agree[name]
             for name, c in group.items()}, first)


def against(trl, own):
    """How many times TRL's time is one's own: in each round, since both met the same neighbours there; the median,
    and the middle half"""
    if not trl: return {}
    ratios = [theirs / ours for theirs, ours in zip(trl, own)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {"ratio": statistics.median(ratios), "ratio_middle_half": [low, high]}


def difference(own, first):
    "How far loss and gradient are from the first contestant's"
    first = first or own
    flat = lambda grads: torch.cat([grads[name].flatten() for name in sorted(grads)])
    base = flat(first[1])
    return (first,
            {"loss": own[0], "loss_difference": abs(own[0] - first[0]),
             "gradient_difference": ((flat(own[1]) - base).norm() / base.norm()).item()})


def row(contestant, took, rate, whole, device):
    pairs, time = contestant.shape.batch, measure.middle(took)
    found = {"ms_per_pair": 1e3 * time / pairs, "ms_range": [1e3 * t / pairs for t in (min(took), max(took))]}
    if not whole: return found
    flops = measure.operations(contestant.step)
    return (found
            | {"gflop_per_pair": flops / pairs / 1e9, "share_of_matrix_rate": flops / time / rate,
               "memory_mb": measure.memory(contestant.step, device) / 1e6})


COLUMNS = {"ms/pair": ("ms_per_pair", ".1f"), "ratio": ("ratio", ".2f"), "middle half": ("ratio_half", ""),
           "memory, MB": ("memory_mb", ".0f"), "of TRL's": ("memory_ratio", ".2f"),
           "GFLOP/pair": ("gflop_per_pair", ".2f"),
           "of matrix rate": ("share_of_matrix_rate", ".0%"), "loss differs by": ("loss_difference", ".0e"),
           "gradient by": ("gradient_difference", ".0e")}

def lines(rows, missing="-"):
    "The rows of one comparison as texts, and the columns' names"
    base = rows["trl"]
    for name, one in rows.items():
        if isinstance(one, str): yield [TITLES[name], one]; continue
        ratio = lambda key, over, under: {key: over / under} if over and under else {}
        if isinstance(base, dict):
            one = (ratio("ratio", base["ms_per_pair"], one["ms_per_pair"])
                   | ratio("memory_ratio", one.get("memory_mb"), base.get("memory_mb")) | one)
        if "ratio_middle_half" in one: one = one | {"ratio_half": "{:.2f} - {:.2f}".format(*one["ratio_middle_half"])}
        yield [TITLES[name], *(format(one[key], form) if key in one else missing for key, form in COLUMNS.values())]


def show(title, rows):
    print(f"\n{title}\n{'':30}" + "".join(f"{c:>16}" for c in COLUMNS), flush=True)
    for name, *cells in lines(rows): print(f"{name:30}" + "".join(f"{c:>16}" for c in cells), flush=True)
    return rows


def summary(found):
    "The few numbers that others read: milliseconds for each pair"
    ms = lambda form: {name: found[form][name]["ms_per_pair"] for name in QUICK[form]}
    return {"dpo": ms("dpo"), "povid": ms("released")}


def main(args):
    torch.set_num_threads(1)
    started = time.time()
    everything = {}
    for shape in [replace(shapes.LLAVA_2K, batch=4)] if args.quick else [shapes.LLAVA_2K, shapes.LLAVA_32K,
            shapes.BUILT_IN]:
        everything[shape.name] = {form: show(f"{shape.name}, {form}",
                                             compare(shape, form, args.rounds or (6 if args.quick else 5),
                                                     QUICK[form] if args.quick else None, whole=not args.quick))
                                  for form in FORMS}
    results = summary(everything[shapes.LLAVA_2K.name]) | {"all": everything}
    results |= {"machine": measure.machine(), "clock": measure.CLOCK, "minutes": (time.time() - started) / 60}
    print(f"\n{measure.CLOCK}; {results['machine']['device']}, one thread; {results['minutes']:.1f} minutes")
    if args.json: measure.keep(results, args.json)
