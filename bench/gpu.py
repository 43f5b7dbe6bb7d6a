"""`python -m bench gpu`: the step of training at the size of LLaVA-1.5-7B, on the cards that people have.

A smaller card is emulated on a larger one: its memory by a cap, its precision by the type of the weights; not its speed.
Each part is saved as it ends, and none begins after the time that was given.
"""
import gc, importlib.util, tempfile, time
from dataclasses import dataclass

import torch
from povid_nb.vlm import VLM

from . import measure, shapes
from .train import QUICK, FORMS, compare, show


@dataclass(frozen=True)
class Card:
    "A card to be: GiB of memory that torch may use, and the type of the weights"
    gib: float
    dtype: torch.dtype

CARDS = {"this card": Card(0, torch.bfloat16), "t4": Card(14.6, torch.float16), "l4": Card(22., torch.bfloat16), "a100-40": Card(39.4, torch.bfloat16)}
HOWS = {"16 bits": {}, "16 bits, checkpointed": {"checkpointing": True}, "4 bits, checkpointed": {"checkpointing": True, "quantize": "4bit"}}
TINY = shapes.Shape("tiny", (32, 64, 3, 2), (32, 64, 2, 2), 60, 4, 3, 5, 6, 2, 4)


def parts(quick):
    "(card, how, form) in the order of what is missed most"
    if quick: return [(card, how, form) for card, how in (("this card", "16 bits"), ("t4", "4 bits, checkpointed"), ("this card", "16 bits, checkpointed")) for form in FORMS]
    return [(card, how, form) for card in CARDS for how in HOWS for form in FORMS]


def cap(card, device):
    "Let torch use no more memory than the card has; nothing where it has less, or is a CPU"
    if device == "cpu": return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1., card.gib * 2**30 / total) if card.gib else 1.)


def part(shape, card, how, form, rounds, names, device, folder):
    "The rows of one part, or why it was not measured"
    options = dict(HOWS[how])
    if options.pop("quantize", None):
        if importlib.util.find_spec("bitsandbytes") is None: return "not measured: bitsandbytes is not installed"
        if device == "cpu": return "not measured: in 4 bits on a CPU the time says nothing"
        if not (folder/"config.json").exists(): shapes.save(shape, folder)
        options["make"] = lambda: VLM.load(folder, device=device, dtype=card.dtype, quantize="4bit")
    cap(card, device)
    dtype = torch.float32 if device == "cpu" else card.dtype
    return compare(shape, form, rounds, names, whole=True, device=device, dtype=dtype, **options)


def measured(quick=True, rounds=None, shape=None, device=None, minutes=7., keep=lambda found: None):
    "All parts, each handed to `keep` as it ends"
    from pathlib import Path
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    shape = shape or (shapes.LLAVA_7B if device == "cuda" else TINY)
    found = {"shape": shape.name, "machine": measure.machine(device), "clock": measure.CLOCK, "parts": {}}
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        for card, how, form in parts(quick):
            title = f"{shape.name}, {card}, {how}, {form}"
            late = quick and time.time() - started > 60 * minutes
            rows = "not measured: out of time" if late else part(shape, CARDS[card], how, form, rounds or (3 if quick else 7), QUICK[form] if quick else FORMS[form], device, Path(folder))
            found["parts"][title] = rows if isinstance(rows, str) else show(title, rows)
            if isinstance(rows, str): print(f"\n{title}\n  {rows}", flush=True)
            found["minutes"] = (time.time() - started) / 60
            keep(found)
            gc.collect()
    return found


def main(args):
    torch.set_num_threads(1)
    found = measured(args.quick, args.rounds, keep=(lambda found: measure.keep(found, args.json)) if args.json else lambda found: None)
    print(f"\n{found['machine']['device']}; {found['minutes']:.1f} minutes" + ("" if torch.cuda.is_available() else "; no CUDA device here: a rehearsal at a tiny size, whose figures say nothing"))
