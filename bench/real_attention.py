"""Does training draw the attention of the model of real parts to the picture? python -m bench.real_attention [FOLDER]

Of the same answers, written by the untuned model about counter scenes: the share of attention that goes to the image
tokens, before and after each training of the lab of real parts (FOLDER, runs/labs/real-parts, left by
`povid lab real-parts --full`). Writes bench/results/real_attention.json; ten minutes of a core.
"""
import argparse
from pathlib import Path
import numpy as np
from povid_nb import attention, race, race_real, realworld, stats, trials, world
from povid_nb.procs import write_json
from povid_nb.vlm import VLM

OUT = Path(__file__).parent/"results"/"real_attention.json"
NAMES = (race.CONTROL, "DPO", "POVID, paper", "POVID, released")


def pooled(several):
    "The shares of several trainings as one; answers about one picture stay together"
    columns = {name: np.concatenate([s.columns[name] for s in several]) for name in several[0].columns}
    by_head = np.concatenate([s.by_head for s in several])
    return attention.ImageShares(columns, by_head, [name for s in several for name in s.names])


def trainings(folder, saved):
    "The adapters of each method, one for each seed, trained with the rate that was chosen"
    rates, found = saved["chosen"][race_real.OWN], {}
    for name in NAMES:
        places = [folder/race_real.OWN/name/f"train-{seed}-{rates[name]:g}" for seed in saved["seeds"]]
        found[name] = [place/"adapter.safetensors" for place in places]
        if missing := [file for file in found[name] if not file.exists()]:
            raise FileNotFoundError(f"no trained adapter at {missing[0]}; run `povid lab real-parts --full` first")
    return found


def compared(files, scenes, vocabulary):
    "(shares before, {method: change on the same answers}), by class of word"
    base = VLM.load("real")
    answers = base.describe(scenes, batch_size=16)
    of = lambda vlm: attention.image_shares(vlm, scenes, world.DESCRIBE, answers, None, vocabulary, ())
    before, changes = of(base), {}
    for name, seeds in files.items():
        tuned = [of(race.trained(file, "real")) for file in seeds]
        changes[name] = pooled([before] * len(tuned)).compare(pooled(tuned))
    return before.intervals(), changes


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder", type=Path, nargs="?", default=Path("runs/labs/real-parts"))
    ask.add_argument("--scenes", type=int, default=100)
    given = ask.parse_args()
    source = realworld.stamps()
    files = trainings(given.folder, trials.Lab("real-parts").saved())
    before, changes = compared(files, realworld.scenes(source, "counter", "test", given.scenes), source.vocabulary)
    rows = {"before": before, **changes}
    for name, found in rows.items(): print(f"{name:16}", *(f"{kind} {found[kind]}" for kind in found), sep="\n    ")
    numbers = {name: {kind: list(map(float, value[:3])) for kind, value in found.items()}
               for name, found in rows.items()}
    write_json(OUT, dict(scenes=given.scenes, found=numbers, versions=stats.versions()))
