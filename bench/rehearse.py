"""`python -m bench rehearse`: both stages at full size on tensors without content; memory and arithmetic counted."""
import torch
from povid_nb.plan import _MODELS, rehearse

from . import measure


def main(args):
    found = {}
    print(f"{'':16}{'form':8}{'checkpointed':14}{'weights, GiB':>14}{'step, GiB':>12}{'TFLOP/pair':>12}{'answers':>9}")
    for name in list(_MODELS)[:1] if args.quick else _MODELS:
        for form in ("dpo", "paper"):
            for checkpointing in (False, True):
                need = rehearse(name, form, 64 if "smol" in name else 128, checkpointing)
                found[f"{name}, {form}{', checkpointed' * checkpointing}"] = vars(need)
                print(f"{name:16}{form:8}{'yes' if checkpointing else 'no':14}{need.weights / 2**30:14.2f}"
                      f"{need.step / 2**30:12.2f}{need.flops / 1e12:12.2f}{'packed' if need.packed else 'plain':>9}",
                      flush=True)
    if args.json: measure.keep({"steps": found, "torch": torch.__version__}, args.json)
