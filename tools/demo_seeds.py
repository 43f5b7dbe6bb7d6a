"""The demonstration over seeds, from finished runs, in povid_nb/results/paper-position.json:

    for seed in 0 1 2; do povid run --config demo --seed $seed --out runs/demo-$seed; done
    python -m tools.demo_seeds runs/demo-0 runs/demo-1 runs/demo-2
"""
import json, subprocess, sys
from pathlib import Path
import yaml
from povid_nb import chair, pope, report, trials, world, yesno
from povid_nb.measure import RESULTS, VOCABULARY
from povid_nb.procs import write_json
from povid_nb.stats import versions
from povid_nb.steps import _record
from tools.links import ROOT

CONFIGS = ROOT/"povid_nb"/"configs"


def counts(out, n):
    "{contestant: {split: counts of each picture}} of a run, as far as it is finished, from its answers"
    found = {}
    for answers, place in (("own", Path(out)), ("clean", Path(out)/"clean")):
        for who, model in report.MODELS.items():
            folder = (Path(out) if who == "base" else place)/"said"/who
            if "files" not in (_record(folder) or {}): continue
            name = "before" if who == "base" else f"{answers}: {report._name(who)}"
            found[name] = {split: answered(folder/split, world.scenes(split, "test", n))
                           for split in ("typical", "counter")}
    return found


def answered(folder, scenes):
    "The counts of each picture, as the labs keep them"
    rows = lambda file: {row["id"]: row for row in map(json.loads, (folder/file).read_text().splitlines())}
    captions, said = rows("captions.jsonl"), rows("pope.jsonl")
    truths = {scene.seed: scene.objects for scene in scenes}
    scored = chair.score([captions[i]["caption"] for i in truths], list(truths.values()), VOCABULARY, list(truths))
    questions = pope.build_questions(truths, per_image=2, rule="picture")
    asked = pope.score_answers(questions, [said[yesno._id(q)]["text"] for q in questions])
    return trials._counts(dict(captions=scored, asked=asked, images=truths))


def summary(folders):
    "Means over seeds with intervals over scenes and seeds, and the differences that mean something"
    settings = yaml.safe_load((CONFIGS/"demo.yaml").read_text())
    found, seeds = {}, []
    for out in folders:
        seeds.append(json.loads((Path(out)/"pairs"/"step.json").read_text())["settings"]["seed"])
        for who, splits in counts(out, settings["n"]).items(): found.setdefault(who, {})[seeds[-1]] = splits
    found["before"] = dict(list(found["before"].items())[:1])                  # the untuned model has no seed
    means, differences = trials._summarise(found)
    side = lambda who: who.partition(":")[0]
    wanted = lambda b, a: a == "before" or (side(a) == side(b) and b > a)
    each = {who: {seed: {split: trials._scores(t) for split, t in splits.items()} for seed, splits in by.items()}
            for who, by in found.items()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True,
                            text=True).stdout.strip()
    again = [f"povid run --config demo --seed {seed} --out runs/demo-{seed}" for seed in seeds]
    return dict(means=means, differences={name: d for name, d in differences.items() if wanted(*name.split(" - "))},
                each=each, seeds=seeds, settings=settings, commands=again, commit=commit, versions=versions())


if __name__ == "__main__":
    if len(sys.argv) < 2: sys.exit(__doc__)
    write_json(RESULTS/"paper-position.json", summary(sys.argv[1:]))
    print(trials.result_table(trials.Lab("paper-position").saved()))
