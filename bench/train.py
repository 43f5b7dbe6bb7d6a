"""`python -m bench train`: one step of every contestant on the same work, in turns."""
import gc, time
from dataclasses import replace

import torch

from . import contestants, measure, shapes

TITLES = {"trl": "TRL", "released": "released algorithm, restated", "ours": "ours", "ours_reference_cached": "ours, reference cached", "ours_cached": "ours, features cached too"}


def agreement(group):
    "Loss, and the relative difference of the gradient, against the first of the group"
    found = {name: c.gradients() for name, c in group.items()}
    loss, grads = next(iter(found.values()))
    flat = lambda g: torch.cat([g[k].flatten() for k in sorted(grads)])
    return {name: {"loss": l, "loss_difference": abs(l - loss), "gradient_difference": ((flat(g) - flat(grads)).norm() / flat(grads).norm()).item()} for name, (l, g) in found.items()}


def compare(shape, form, rounds, whole=True, device="cpu", dtype=torch.float32, names=None, **options):
    "Everything about one form of loss on one shape"
    names = names or contestants.FORMS[form]
    if torch.device(device).type == "cuda": return {n: alone(shape, form, n, rounds, device, dtype, **options) for n in names}
    group = {n: contestants.CONTESTANTS[n](shape, form, device, dtype, **options) for n in names}
    agree = agreement(group)
    rate = measure.matrix_rate(device, dtype)
    took = measure.alternating({n: c.step for n, c in group.items()}, rounds, device)
    return {n: row(shape, c, took[n], agree[n], rate, whole, device) for n, c in group.items()}


def row(shape, contestant, took, agree, rate, whole, device):
    found = {"ms_per_pair": 1e3 * measure.middle(took) / shape.batch, "ms_range": [1e3 * t / shape.batch for t in measure.spread(took)], **agree}
    if whole:
        flops = measure.operations(contestant.step)
        found |= {"gflop_per_pair": flops / shape.batch / 1e9, "share_of_matrix_rate": flops / measure.middle(took) / rate, "memory_mb": measure.memory(contestant.step, device) / 1e6}
    return found


def alone(shape, form, name, rounds, device, dtype, **options):
    "One contestant with the whole GPU to itself: large models do not fit side by side"
    contestant = contestants.CONTESTANTS[name](shape, form, device, dtype, **options)
    loss, grads = contestant.gradients()
    took = measure.alternating({name: contestant.step}, rounds, device, warm=2)[name]
    norm = torch.cat([g.flatten() for g in grads.values()]).norm().item()
    found = row(shape, contestant, took, {"loss": loss, "gradient_norm": norm}, measure.matrix_rate(device, dtype), True, device)
    del contestant
    gc.collect(); torch.cuda.empty_cache()
    return found


def table(title, found, first):
    "The rows of one comparison as text"
    lines = [f"\n{title}", f"{'':32}{'ms/pair':>9}{'ratio':>7}{'memory':>9}{'GFLOP':>8}{'of rate':>9}{'loss diff':>11}{'grad diff':>11}"]
    base = found[first]
    for name, r in found.items():
        number = lambda key, form: format(r[key], form) if key in r else "-"
        lines.append(f"{TITLES[name]:32}{r['ms_per_pair']:9.1f}{base['ms_per_pair'] / r['ms_per_pair']:7.2f}{number('memory_mb', '.0f'):>9}{number('gflop_per_pair', '.2f'):>8}"
                     f"{number('share_of_matrix_rate', '.0%'):>9}{number('loss_difference', '.1e'):>11}{number('gradient_difference', '.1e'):>11}")
    return "\n".join(lines)


def gpu(rounds):
    "The 7B shape, where there is a GPU"
    if not torch.cuda.is_available(): return {"LLaVA-1.5-7B shape": "not measured: no CUDA device here"}
    found = {}
    for checkpointing in (False, True):
        for form in contestants.FORMS:
            key = f"{shapes.LLAVA_7B.name}, bf16, {form}, {'with' if checkpointing else 'without'} gradient checkpointing"
            try: found[key] = compare(shapes.LLAVA_7B, form, rounds, device="cuda", dtype=torch.bfloat16, checkpointing=checkpointing)
            except torch.cuda.OutOfMemoryError as e: found[key] = f"not measured: {str(e).splitlines()[0]}"
    return found | four_bit(rounds)


def four_bit(rounds):
    "The same with 4-bit weights, if bitsandbytes is there"
    import importlib.util, tempfile
    if importlib.util.find_spec("bitsandbytes") is None: return {"4-bit": "not measured: bitsandbytes is not installed"}
    from povid_nb.vlm import VLM
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = shapes.build(shapes.LLAVA_7B, "cuda", torch.bfloat16, adapter=False)
        whole.model.save_pretrained(folder); whole.processor.save_pretrained(folder)
        del whole; torch.cuda.empty_cache()
        for form, names in contestants.FORMS.items():
            for name in names:
                vlm = VLM.load(folder, device="cuda", quantize="4bit")
                found[f"{shapes.LLAVA_7B.name}, 4-bit, {form}, {name}"] = alone(shapes.LLAVA_7B, form, name, rounds, "cuda", torch.bfloat16, vlm=vlm)
                del vlm; gc.collect(); torch.cuda.empty_cache()
    return found


def quick(rounds=3, batch=4):
    "The LLaVA-proportioned model alone, times only"
    return {form: compare(replace(shapes.LLAVA_2K, batch=batch), form, rounds, whole=False) for form in contestants.FORMS}


def summary(found):
    "The few numbers that others read"
    ms = lambda form, name: found[form][name]["ms_per_pair"]
    return {"dpo": {name: ms("dpo", name) for name in ("trl", "ours", "ours_cached")},
            "povid": {name: ms("released", name) for name in ("trl", "released", "ours", "ours_cached")}}


def main(args):
    torch.set_num_threads(args.threads)
    started = time.time()
    if args.quick:
        found = quick(args.rounds or 3)
        for form, rows in found.items(): print(table(f"{shapes.LLAVA_2K.name}, {form}", rows, "trl"), flush=True)
        results = summary(found)
    else:
        results, everything = {}, {}
        for shape in (shapes.LLAVA_2K, shapes.LLAVA_32K, shapes.BUILT_IN):
            everything[shape.name] = {}
            for form in contestants.FORMS:
                everything[shape.name][form] = compare(shape, form, args.rounds or 5)
                print(table(f"{shape.name}, {form}", everything[shape.name][form], "trl"), flush=True)
        results = summary(everything[shapes.LLAVA_2K.name]) | {"all": everything, "gpu": gpu(args.rounds or 5)}
        print("\nGPU:", *(v for v in results["gpu"].values() if isinstance(v, str)))
    results |= {"machine": measure.machine(), "clock": "process CPU time" , "minutes": (time.time() - started) / 60}
    print(f"\n{results['machine']['device']}, {results['machine']['threads']} thread, {results['minutes']:.1f} minutes")
    if args.json: measure.keep(results, args.json)
