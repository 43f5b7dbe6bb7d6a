"""The demonstration over seeds, from finished runs, in povid_nb/results/paper-position.json:

    for seed in 0 1 2; do povid run --config demo --seed $seed --out runs/demo-$seed; done
    python -m tools.demo_seeds runs/demo-0 runs/demo-1 runs/demo-2
"""
import json, subprocess, sys
from pathlib import Path
from povid_nb import report, trials
from povid_nb.measure import RESULTS
from povid_nb.procs import write_json
from povid_nb.run import Run, Settings
from tools.links import ROOT


def counts(out):
    "(settings, seconds, {contestant: {split: counts of each picture}}) of a finished run"
    told = json.loads((Path(out)/"run.json").read_text())
    settings = Settings(**told["settings"] | {"annotations": tuple(told["settings"]["annotations"])})
    _, _, found = Run(out, settings).models()
    of = lambda splits: {split: trials._counts(m) for split, m in splits.items()}
    name = lambda answers, who: "before" if who == "base" else f"{answers}: {report._name(who)}"
    return settings, told, {name(answers, who): of(m) for answers, models in found.items() for who, m in models.items()}


def summary(folders):
    "Means over seeds with intervals over scenes and seeds, and the differences that mean something"
    found, seeds, seconds = {}, [], {}
    for out in folders:
        settings, told, made = counts(out)
        seeds.append(settings.seed)
        seconds[settings.seed] = round(sum(told["seconds"].values()))
        for who, splits in made.items(): found.setdefault(who, {})[settings.seed] = splits
    found["before"] = dict(list(found["before"].items())[:1])                  # the untuned model has no seed
    means, differences = trials._summarise(found)
    side = lambda who: who.partition(":")[0]
    wanted = lambda b, a: a == "before" or (side(a) == side(b) and b > a)
    each = {who: {seed: {split: trials._scores(t) for split, t in splits.items()} for seed, splits in by.items()} for who, by in found.items()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    again = [f"povid run --config demo --seed {seed} --out runs/demo-{seed}" for seed in seeds]
    return dict(means=means, differences={name: d for name, d in differences.items() if wanted(*name.split(" - "))}, each=each,
                seeds=seeds, n=settings.n, train=settings.train, pairs=settings.pairs, commands=again, commit=commit,
                seconds=seconds, versions=told["versions"])


if __name__ == "__main__":
    if len(sys.argv) < 2: sys.exit(__doc__)
    write_json(RESULTS/"paper-position.json", summary(sys.argv[1:]))
    print(trials.result_table(trials.Lab("paper-position").saved()))
