"""The floors of the library: a module may import from its own floor or from one below, never from one above.

    python -m tools.floors    prints them, with the lines and the public names of each module
"""
import ast
from pathlib import Path

FLOORS = {
    # 0: processes and files, pictures, numbers
    "procs": 0,
    "serve": 0,
    # 1: no model is known here
    "pictures": 1,
    "answers": 1,
    "read": 1,
    "stats": 1,
    "viz": 1,
    "noise_pixels": 1,
    "quiz": 1,
    "diagram": 2,
    "dial": 7,
    "noise": 1,
    "dpo": 1,
    "loss": 1,
    "neighbours": 1,
    "forms": 1,
    "metrics": 1,
    # 2: the drawn world, what is counted, and what is paid for
    "world": 2,
    "coco": 2,
    "ledger": 2,
    # 3: pairs, scores and the client; a model is an argument
    "pairs": 3,
    "chair": 3,
    "yesno": 3,
    "prompts": 3,
    "client": 3,
    # 4
    "formats": 4,
    "pope": 4,
    "lies": 4,
    "quality": 4,
    "batch": 4,
    "parts": 3,
    "realworld": 3,
    "load": 4,
    # 5: the model
    "review": 5,
    "amber": 5,
    "vlm": 5,
    "words": 5,
    "judge": 5,
    "choice": 5,
    "standin": 6,
    "objhal": 6,
    "hallusion": 6,
    "published": 7,
    "benches": 8,
    "harness": 6,
    # 6: what is done with it
    "shift": 6,
    "inject": 6,
    "watch": 6,
    "attention": 6,
    "branches": 6,
    "packing": 6,
    # 7
    "explorer": 7,
    "trust": 7,
    "looker": 7,
    "attention_plots": 7,
    "cache": 7,
    "vcd": 7,
    # 8: training
    "train": 8,
    "stages": 8,
    "pretrain": 8,
    "pretrain_real": 9,
    "plausible": 6,
    "report": 8,
    "steps": 1,
    "measure": 6,
    # 9: the whole
    "run": 9,
    "trials": 9,
    "check": 9,
    "checks_start": 10,
    "checks_measure": 10,
    "checks_noise": 10,
    "checks_learn": 10,
    "checks_look": 10,
    "checks_beyond": 10,
    "checks_real": 10,
    "checks_labs": 10,
    "doctor": 9,
    "plan": 9,
    "push": 9,
    "methods": 9,
    "race_pairs": 10,
    "stacked": 10,
    "race": 10,
    "race_real": 12,
    "variants": 11,
    "families": 11,
    "cli": 11,
    "shell": 9,
    "demo": 12,
}

LIBRARY = Path(__file__).parents[1]/"povid_nb"


def modules():
    "The module files of the library"
    return sorted(file for file in LIBRARY.glob("*.py") if file.stem[0] != "_")


def public(file):
    "The names in a module's `__all__`"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


if __name__ == "__main__":
    rows = sorted((FLOORS.get(file.stem, -1), file.stem, len(file.read_text().splitlines()), len(public(file)))
                  for file in modules())
    for floor, name, lines, names in rows: print(f"{floor:>2}  {name:12} {lines:>5} lines {names:>4} names")
    print(f"{len(rows)} modules, {sum(r[2] for r in rows):,} lines, longest {max(r[2] for r in rows)}, "
          f"{sum(r[3] for r in rows)} public names")
