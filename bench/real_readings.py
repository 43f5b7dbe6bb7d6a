"""Three readings of the model of real parts: python -m bench.real_readings [--base FOLDER] [--scenes N]

Of the same scenes, in which the usual partner of each cue is missing: what its captions name, what it says yes to when
asked, and what a linear probe reads off its tower. Writes bench/results/real_readings.json; ten minutes of a core.
"""
import argparse
from pathlib import Path
import torch
from torch.nn import functional as F
from povid_nb import pretrain_real, realworld, stats, yesno
from povid_nb.procs import write_json
from povid_nb.vlm import VLM

OUT = Path(__file__).parent/"results"/"real_readings.json"


def by_place(features):
    "A row of features for each of a scene's nine places, with a one at its end: (n, 49, width) -> (n, 9, width + 1)"
    grid = F.adaptive_avg_pool2d(features.float().transpose(1, 2).unflatten(2, (7, 7)), 3)
    return F.pad(grid.flatten(2).transpose(1, 2), (0, 1), value=1.)


def fit_probe(features, scenes, ridge=1.):
    "A linear map from the features at a place to the kind of thing that stands there (0: nothing), by least squares"
    kinds, labels = scenes[0].source.kinds, torch.zeros(len(scenes), 9, dtype=torch.long)
    for row, scene in zip(labels, scenes):
        for thing in scene.things: row[thing.place] = 1 + kinds.index(thing.kind)
    x, wanted = by_place(features).flatten(0, 1), F.one_hot(labels.flatten(), 1 + len(kinds)).float()
    return torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1]), x.T @ wanted)


def seen(features, probe, kinds):
    "The kinds that the probe reads off the tower: for each scene a set"
    return [{kinds[k - 1] for k in places if k} for places in (by_place(features) @ probe).argmax(-1).tolist()]


def asked(vlm, scenes, cases):
    "The kinds of each scene's cases that the model says yes to"
    pictures = [scene.image() for scene in scenes]
    flat = [(i, kind) for i, kinds in enumerate(cases) for kind in kinds]
    questions = [f"Is there {realworld._a(kind)} in the image?" for _, kind in flat]
    p = []
    for start in range(0, len(flat), 32):
        few = slice(start, start + 32)
        p += yesno.yes_probability(vlm, [pictures[i] for i, _ in flat[few]], questions[few])
    return [{kind for (j, kind), yes in zip(flat, p) if j == i and yes > .5} for i in range(len(scenes))]


def shares(scenes, found):
    "Of what is there, of absent partners and of absent bystanders: the share that was found, with its interval"
    counts = [s.inventions(kinds) | dict(there=len(s.objects), there_named=len(s.objects & kinds))
              for s, kinds in zip(scenes, found)]
    columns = {name: [one[name] for one in counts] for name in counts[0]}
    measures = {name: (lambda sums, name=name: stats.ratio(getattr(sums, f"{name}_named"), getattr(sums, name)))
                for name in ("there", "partners", "bystanders")}
    return {name: list(interval) for name, interval in stats.bootstrap(columns, measures).items()}


def readings(vlm, source, n, fitted=1500):
    "Each reading's shares on `n` test scenes; the probe is fitted on other scenes, which have no habits"
    scenes = realworld.scenes(source, "counter", "test", n)
    told = [{m.kind for m in source.vocabulary.find(text)} for text in vlm.describe(scenes, batch_size=16)]
    cases = [sorted(s.objects | set(s.missing_partners) | set(source.places[s.context][1])) for s in scenes]
    said = asked(vlm, scenes, cases)
    others = realworld.scenes(source, "random", "train", fitted)
    features = lambda some: pretrain_real._features_of(vlm.model, vlm.processor, some).cpu()
    with torch.no_grad(): probe = fit_probe(features(others), others)
    with torch.no_grad(): read = seen(features(scenes), probe, source.kinds)
    return {"caption": shares(scenes, told), "question": shares(scenes, said), "probe": shares(scenes, read)}


if __name__ == "__main__":
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--base", default="real")
    ask.add_argument("--scenes", type=int, default=200)
    given = ask.parse_args()
    found = readings(VLM.load(given.base, dtype="float32"), realworld.stamps(), given.scenes)
    for name, one in found.items():
        print(f"{name:10}", *("{} {:.3f} ({:.3f} to {:.3f})".format(what, *v) for what, v in one.items()), sep="  ")
    write_json(OUT, dict(base=given.base, scenes=given.scenes, found=found, versions=stats.versions()))
