"""`python -m bench gpu`: the step of training at the size of LLaVA-1.5-7B, on the cards that people have.

A smaller card is emulated on a larger one: its memory by a cap, its precision by the type of the weights; not its
speed. Each part is saved as it ends, and none begins after the time that was given.
"""
import gc, importlib.util, json, tempfile, time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from povid_nb import plan, stages
from povid_nb.vlm import VLM
from transformers import TrainerCallback

from . import measure, shapes
from .train import QUICK, FORMS, compare, show


@dataclass(frozen=True)
class Card:
    "A card to be: GiB of memory that torch may use, and the type of the weights"
    gib: float
    dtype: torch.dtype

CARDS = {"this card": Card(0, torch.bfloat16), "t4": Card(14.6, torch.float16), "l4": Card(22., torch.bfloat16),
         "a100-40": Card(39.4, torch.bfloat16)}
HOWS = {"16 bits": {}, "16 bits, checkpointed": {"checkpointing": True},
        "4 bits, checkpointed": {"checkpointing": True, "quantize": "4bit"}}
TINY = shapes.Shape("tiny", (32, 64, 3, 2), (32, 64, 2, 2), 60, 4, 3, 5, 6, 2, 4)


BOTH = "both stages by `train`"


def parts(quick):
    "(card, how, what) in the order of what is missed most"
    if quick:
        own, small = ("this card", "16 bits"), ("t4", "4 bits, checkpointed")
        places = [*((*own, form) for form in FORMS), (*small, BOTH), *((*small, form) for form in FORMS), (*own, BOTH)]
        return places + [("this card", "16 bits, checkpointed", form) for form in FORMS]
    return [(card, how, what) for card in CARDS for how in HOWS for what in (BOTH, *FORMS)]


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


class _Watch(TrainerCallback):
    "Seconds of each step, and bytes at the worst moment of each stage"
    def __init__(self, device): self.device, self.took, self.peaks = device, {}, {}

    def now(self):
        if self.device != "cpu": torch.cuda.synchronize()
        return time.perf_counter()

    def on_step_begin(self, args, state, control, **others):
        if state.global_step == 0 and self.device != "cpu": torch.cuda.reset_peak_memory_stats()
        self.start = self.now()

    def on_step_end(self, args, state, control, **others):
        stage = Path(args.output_dir).name
        self.took.setdefault(stage, []).append(self.now() - self.start)
        if self.device != "cpu":
            self.peaks[stage] = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def both_stages(shape, card, how, device, folder, n=8, steps=5):
    "Training as a user starts it, from weights on disk through `train`, beside what `povid plan` says of it"
    options, four = HOWS[how], "quantize" in HOWS[how]
    if four and (device == "cpu" or importlib.util.find_spec("bitsandbytes") is None):
        return "not measured: needs a GPU and bitsandbytes"
    if not (folder/"config.json").exists(): shapes.save(shape, folder)
    cap(card, device)
    start, watch = time.time(), _Watch(device)
    load = lambda: VLM.load(folder, device=device, dtype=torch.float32 if device == "cpu" else card.dtype,
                            quantize="4bit" if four else None)
    vlm = load()
    found = {"load_s": time.time() - start}
    pairs = shapes.pairs(shape, n)
    with tempfile.TemporaryDirectory() as out:
        checkpointing, half = options.get("checkpointing", False), device != "cpu" and card.dtype == torch.float16
        precision = {"fp16": half, "bf16": not half} if device != "cpu" else {}
        vlm = stages.train(vlm, pairs, out, batch_size=1, learning_rate=1e-4, max_steps=steps,
                           gradient_checkpointing=checkpointing, callbacks=[watch],
                           disable_tqdm=True, **precision)
        found |= {"whole_s": time.time() - start}
        for stage, (_, *took) in watch.took.items():
            found[stage] = {"ms_per_pair": 1e3 * median(took), "ms_range": [1e3 * min(took), 1e3 * max(took)]}
        for stage, (held, reserved) in watch.peaks.items():
            found[stage] |= {"peak_gib": held / 2**30, "reserved_gib": reserved / 2**30}
        if shape is shapes.LLAVA_7B:
            for stage, form in (("stage1", "dpo"), ("stage2", "paper")):
                found[stage]["planned_gib"] = plan._memory(plan.rehearse("llava-1.5-7b", form, 128, checkpointing),
                                                           4 if four else 16)
        scored = lambda: torch.tensor(vlm.score(pairs[0].image, pairs[0].prompt, pairs[0].chosen).logps)
        own = scored()
        del vlm
        gc.collect()
        vlm = load()
        base = scored()
        vlm.load_adapter(Path(out)/"adapter")
        found |= {"learnt": (own - base).abs().max().item(),
                  "read_again_differs_by": (own - scored()).abs().max().item()}
    return found


def measured(quick=True, rounds=None, shape=None, device=None, minutes=7., keep=lambda found: None):
    "All parts, each handed to `keep` as it ends"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    shape = shape or (shapes.LLAVA_7B if device == "cuda" else TINY)
    found = {"shape": shape.name, "machine": measure.machine(device), "clock": measure.CLOCK, "parts": {}}
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        for card, how, what in parts(quick):
            title = f"{shape.name}, {card}, {how}, {what}"
            late = quick and time.time() - started > 60 * minutes
            try:
                if late: rows = "not measured: out of time"
                elif what == BOTH: rows = both_stages(shape, CARDS[card], how, device, Path(folder))
                else:
                    rows = part(shape, CARDS[card], how, what, rounds or (3 if quick else 7),
                                (QUICK if quick else FORMS)[what], device, Path(folder))
            # the next part is wanted all the same
            except Exception as error: rows = f"not measured: {type(error).__name__}: {error}"[:500]
            found["parts"][title] = rows
            if isinstance(rows, dict) and what != BOTH: show(title, rows)
            else: print(f"\n{title}\n  {json.dumps(rows) if isinstance(rows, dict) else rows}", flush=True)
            found["minutes"] = (time.time() - started) / 60
            keep(found)
            gc.collect()
    return found


def main(args):
    torch.set_num_threads(1)
    found = measured(args.quick, args.rounds,
                     keep=(lambda found: measure.keep(found, args.json)) if args.json else lambda found: None)
    print(f"\n{found['machine']['device']}; {found['minutes']:.1f} minutes"
          + ("" if torch.cuda.is_available()
             else "; no CUDA device here: a rehearsal at a tiny size, whose figures say nothing"))
