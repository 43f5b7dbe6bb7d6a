"""`python -m bench memory`: what one step of stage 2 holds at its worst moment, packed and plain, with and without
checkpointing."""
from dataclasses import replace

import torch
from povid_nb import branches
from povid_nb.branches import Branches
from povid_nb.loss import povid_loss

from . import measure, shapes

# 576 tokens of a picture
SHAPE = shapes.Shape("LLaVA-proportioned, 4 layers", (128, 512, 4, 4), (256, 688, 4, 8), 2000, 8, 24, 60, 110, batch=2)


def taken(shape, form, plain, checkpointing):
    "Bytes of one step: both models' log-probabilities, the loss, the gradient"
    vlm = shapes.add_lora(shapes.build(shape), shape)
    branch = Branches(vlm, plain)
    batch = branch.collate([branches.encode(vlm, pair) for pair in shapes.pairs(shape)], noisy=True)
    batch["noisy_images"]["pixel_values"] = batch["images"]["pixel_values"].flip(-1)
    if checkpointing: vlm.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    vlm.model.train()
    def step():
        scores = vlm.model(branches=batch | {"form": form})
        povid_loss(*branches.answer_logps(scores), form).losses.mean().backward()
    step()                                       # gradients are there from the second step on
    return measure.memory(step)


def main(args):
    torch.set_num_threads(1)
    shape, found = replace(SHAPE, batch=1) if args.quick else SHAPE, {}
    print(f"{shape.name}, {shape.image_tokens} tokens of a picture, {shape.prompt} of prompt, {shape.answer} of each "
          f"answer, {shape.batch} pairs; "
          f"MB\n\n{'form':12}{'answers':10}{'all kept':>14}{'checkpointed':>14}{'share':>8}")
    for form in ("paper", "released"):
        for plain in (False, True):
            without, with_ = (taken(shape, form, plain, checkpointing) / 1e6 for checkpointing in (False, True))
            found[f"{form}, {'plain' if plain else 'packed'}"] = {"mb": without, "checkpointed_mb": with_}
            print(f"{form:12}{'plain' if plain else 'packed':10}{without:14.0f}{with_:14.0f}{with_ / without:8.2f}",
                  flush=True)
    if args.json: measure.keep({"shape": vars(shape), "steps": found, "machine": measure.machine()}, args.json)
