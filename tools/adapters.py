"""The tuned adapters that ship with the built-in model, taken from a finished run:

    povid run --out runs/clean --answers clean --set learning_rate=1e-3
    python -m tools.adapters runs/clean
"""
import json, re, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file

TARGET = Path(__file__).parents[1]/"povid_nb"/"tiny"/"adapters"
PARTS = {"control": "sft", "stage1": "stage1", "stage2": "stage2"}     # name -> the run's step
CARD = """---
base_model: tiny
library_name: peft
tags: [povid, lora]
---
# {name}: {what}

Made by `{command}` and `python -m tools.adapters`, in float16. Load it with `VLM.load("tiny", adapter="{name}")`.
On 500 counter-typical test scenes, CHAIR_s {chair_s} % (before: {before} %), recall {recall} %.
It changes the built-in model and fits no other.
"""
WHAT = {"control": "plain fine-tuning on the right answers, the control", "stage1": "DPO on injected hallucinations",
        "stage2": "both stages of POVID"}


def ship(run):
    "Write the three adapters of a run into the package; returns their size in bytes"
    report = json.loads((run/"report.json").read_text())
    percent = lambda who, name: f"{100 * report[who]['counter']['chair'][name]:.1f}"
    for name, step in PARTS.items():
        source, target = run/step/"adapter", TARGET/name
        target.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.to(torch.float16).contiguous()
                   for key, value in load_file(source/"adapter_model.safetensors").items()}
        save_file(tensors, target/"adapter_model.safetensors", metadata={"format": "pt"})
        config = json.loads((source/"adapter_config.json").read_text()) | {"base_model_name_or_path": "tiny"}
        (target/"adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        card = CARD.format(name=name, what=WHAT[name],
                           command=re.sub(r"--out \S+", "--out runs/clean", report["command"]),
                           chair_s=percent(step, "chair_s"),
                           before=percent("base", "chair_s"), recall=percent(step, "recall"))
        (target/"README.md").write_text(card)
    return sum(file.stat().st_size for file in TARGET.rglob("*.*"))


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__)
    print(f"{ship(Path(sys.argv[1])) / 1e6:.1f} MB in {TARGET}")
