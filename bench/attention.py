"""`python -m bench attention`: packed rows by layers of our own, by the model's own layers with a mask, and through `transformers.AttentionInterface`."""
import statistics
from dataclasses import replace

import torch
from povid_nb import packing
from povid_nb.packing import _Tree, _attend, _take, additive_mask, visible
from transformers import AttentionInterface

from . import measure, shapes
from .contestants import Ours
from .train import difference


class Masked(Ours):
    "The model's own forward with an additive mask: what layers of other kinds get anyway"
    def prepare(self):
        super().prepare()
        self.branches.packed.trees = False


def attend(module, q, k, v, attention_mask, scaling=None, lineage=None, **options):
    "An attention function as `transformers` calls it: the shared beginning without a mask, the rest with one"
    if (groups := module.num_key_value_groups) > 1: k, v = (y.repeat_interleave(groups, 1) for y in (k, v))
    return _attend(q, k, v, lineage, scaling).transpose(1, 2).contiguous(), None


class Door(packing.PackedLayers):
    def __call__(self, h, packed):
        behind = torch.arange(packed["shared"], packed["ids"].shape[1], device=h.device).expand(len(h), -1)
        tree = _Tree((), additive_mask(visible(packed, behind), h.dtype), packed["shared"])
        mask = h.new_zeros(1, 1, 1, 1)           # four dimensions: no other is made
        out = self.language(inputs_embeds=h, attention_mask=mask, position_ids=packed["positions"], use_cache=False, lineage=tree)
        return _take(out.last_hidden_state, packed["read"])[packed["real"]]


class Interface(Ours):
    def prepare(self):
        AttentionInterface.register("povid_tree", attend)
        super().prepare()
        self.branches.packed.__class__ = Door
        self.branches.packed.language.config._attn_implementation = "povid_tree"


WAYS = {"layers of our own": Ours, "own forward, mask": Masked, "AttentionInterface": Interface}


def main(args):
    torch.set_num_threads(1)
    shape, found = replace(shapes.LLAVA_2K, batch=1 if args.quick else 2), {}
    for form in ("dpo", "released"):
        made = {name: kind(shape, form) for name, kind in WAYS.items()}
        first, agree = None, {}
        for name, one in made.items(): first, agree[name] = difference(one.gradients(), first)
        took = measure.alternating({name: one.step for name, one in made.items()}, args.rounds or 8)
        for name, one in made.items():
            ratios = [b / a for a, b in zip(took["layers of our own"], took[name])]
            low, _, high = statistics.quantiles(ratios, n=4)
            found[f"{form}, {name}"] = row = {"of_our_own": statistics.median(ratios), "middle_half": [low, high], "memory_mb": measure.memory(one.step) / 1e6, **agree[name]}
            print(f"{form:10}{name:22}{row['of_our_own']:8.2f}   {low:.2f} - {high:.2f}{row['memory_mb']:8.0f} MB   gradient differs by {row['gradient_difference']:.0e}", flush=True)
    if args.json: measure.keep({"ways": found, "machine": measure.machine()}, args.json)
