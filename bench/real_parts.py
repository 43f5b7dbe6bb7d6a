"""The method on real parts at full size: python -m bench.real_parts FOLDER [--base FOLDER] [--tiny] [--shift N]

Every method at three learning rates with five seeds, side by side in one batch (povid_nb.stacked), on right answers
that are clean and on the base's own; settings are chosen on validation scenes, with equal tries. What is done is kept
in FOLDER and not done again, so a stopped run goes on. Meant for a GPU; on a CPU it takes days, and `--tiny` shows in
some minutes that it runs.
"""
import argparse, json, random
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from povid_nb import chair, loss, noise, parts, plausible, realworld, stats, trials, world
from povid_nb.branches import Reader, Row, _tail
from povid_nb.methods import METHODS, Data
from povid_nb.procs import write_json, write_tensors
from povid_nb.stacked import _prompt, describe_stacked, fit_stacked, unstack
from povid_nb.vlm import VLM

FULL = dict(pairs=480, validation=150, test=300, seeds=(0, 1, 2, 3, 4), rates=(1e-4, 3e-4, 1e-3), steps=48, size=16,
            at_once=2)
TINY = dict(pairs=6, validation=4, test=4, seeds=(0, 1), rates=(1e-4, 1e-3), steps=2, size=4, at_once=2)


def noise_only(policy, reference):
    "POVID's loss in the paper's form without the injected answer"
    return loss.povid_loss(policy, reference, "paper", beta1=0.)


def cells():
    "(kind of right answers, name) -> (method, who writes the dispreferred answers)"
    some = {"SFT (control)": (METHODS["SFT (control)"], "rule"), "DPO, rule's lies": (METHODS["DPO"], "rule"),
            "DPO, blind model's lies": (METHODS["DPO"], "blind"), "POVID, paper": (METHODS["POVID, paper"], "rule"),
            "noise alone": (replace(METHODS["POVID, paper"], loss=noise_only), "rule"),
            "POVID, released": (METHODS["POVID, released"], "rule")}
    found = {(kind, name): how for kind in ("clean", "own") for name, how in some.items()}
    return (found
            | {("clean", "own caption rejected"): (METHODS["DPO"], "own"),
               ("any", "on-policy DPO"): (METHODS["DPO"], "ranked")})


class Bench:
    def __init__(self, folder, base, sizes):
        self.folder, self.sizes, self.vlm = Path(folder), sizes, VLM.load(base, dtype="float32")
        self.source, self._language = realworld.stamps(), None
        self.pool = self.scenes("typical", "pairs") + self.scenes("counter", "pairs")

    def scenes(self, split, part): return realworld.scenes(self.source, split, part, self.sizes[part])

    def kept(self, name, make):
        "What was made before, or is made now"
        file = self.folder/f"{name}.json"
        if not file.exists(): write_json(file, make())
        return json.loads(file.read_text())

    def pixels(self, name, scenes):
        from safetensors.torch import load_file
        file, eye = self.folder/f"{name}.safetensors", self.vlm.processor.image_processor
        if not file.exists():
            rows = [eye([s.image() for s in scenes[i:i + 64]], return_tensors="pt").pixel_values
                    for i in range(0, len(scenes), 64)]
            write_tensors(file, {"pixels": torch.cat(rows)})
        return load_file(file)["pixels"]

    def test_pixels(self, split, part): return self.pixels(f"{split}-{part}", self.scenes(split, part))

    def language(self):
        if self._language is None:
            model, tokenizer = parts.language_model()
            self._language = model.to(self.vlm.device), tokenizer
        return self._language

    def own(self, sample=0):
        "The base's descriptions of the scenes of the pairs: the most probable ones, or a sample"
        def write():
            torch.manual_seed(sample)
            return describe_stacked(self.vlm, self.pixels("pairs", self.pool), temperature=float(sample > 0))[0]
        return self.kept(f"own-{sample}", write)

    def right(self, kind): return [s.caption() for s in self.pool] if kind == "clean" else self.own()

    def lies(self, kind, writer):
        def write():
            rngs = [random.Random(f"{kind}/{writer}/{i}") for i in range(len(self.pool))]
            rows = zip(self.pool, self.right(kind), rngs)
            if writer == "rule": return [plausible.rule_lie(*row) for row in rows]
            return [plausible.blind_lie(*self.language(), *row) for row in rows]
        return self.kept(f"lies-{kind}-{writer}", write)

    def wrong(self, scene, text): return sum(m.kind not in scene.objects for m in self.source.vocabulary.find(text))
    def order(self, scene, text):
        return self.wrong(scene, text), -len({m.kind for m in self.source.vocabulary.find(text)} & scene.objects)

    def triples(self, kind, writer):
        "(scene, chosen, rejected)"
        if writer == "own": return [t for t in zip(self.pool, self.right("clean"), self.own()) if t[1] != t[2]]
        if writer != "ranked":
            rows = zip(self.pool, self.right(kind), self.lies(kind, writer))
            return [(s, t, l) for s, t, l in rows if l and l != t and t.strip()]
        made = []
        for s, *texts in zip(self.pool, *(self.own(i) for i in (1, 2, 3, 4))):
            texts = sorted(filter(None, texts), key=lambda t: self.order(s, t))
            if len(texts) > 1 and self.wrong(s, texts[0]) < self.wrong(s, texts[-1]):
                made.append((s, texts[0], texts[-1]))
        return made

    def data(self, kind, writer):
        reader, tail = Reader(self.vlm), _tail(self.vlm.text(world.DESCRIBE))
        prompt = self.vlm.tokenizer(_prompt(self.vlm), add_special_tokens=False).input_ids
        ids = lambda text: reader.tokens_after(tail, reader.space + text) + [reader.end_id()]
        pixels, made = self.pixels("pairs", self.pool), self.triples(kind, writer)
        place = {s.seed: i for i, s in enumerate(self.pool)}
        rows = [Row(prompt, ids(c), ids(r), {"pixel_values": pixels[place[s.seed]][None]}, {}) for s, c, r in made]
        return Data(rows, [s for s, *_ in made], 0)

    def counts(self, scenes, texts):
        table = chair.score(list(texts), [s.objects for s in scenes], self.source.vocabulary).columns
        found = {k: [int(v) for v in table[k]]
                 for k in ("any_wrong", "wrong", "mentions", "found", "there", "words", "n")}
        rows = [s.inventions({m.kind for m in self.source.vocabulary.find(t)}) for s, t in zip(scenes, texts)]
        return found | {k: [r[k] for r in rows] for k in rows[0]}

    def before(self):
        def write():
            both = {"validation": ("counter", "validation"), "typical": ("typical", "test"),
                    "counter": ("counter", "test")}
            return {name: self.counts(self.scenes(*of), describe_stacked(self.vlm, self.test_pixels(*of))[0])
                    for name, of in both.items()}
        return self.kept("before", write)

    def cell(self, kind, name):
        "All rates and seeds of a method at once: chosen by validation, and tested"
        s, (method, writer) = self.sizes, cells()[kind, name]
        runs, where = [(seed, rate) for rate in s["rates"] for seed in s["seeds"]], self.vlm.device.type
        data = self.data(kind, writer)
        with torch.autocast(where, torch.bfloat16, enabled=where == "cuda"):
            layers, losses = fit_stacked(self.vlm, method, data, runs, s["steps"], s["size"], at_once=s["at_once"])
        said = describe_stacked(self.vlm, self.test_pixels("counter", "validation"), len(runs), 75)
        tried = [trials._scores(self.counts(self.scenes("counter", "validation"), texts)) for texts in said]
        means = [{m: float(np.mean([t[m] for t, run in zip(tried, runs) if run[1] == rate])) for m in tried[0]}
                 for rate in s["rates"]]
        best = s["rates"][trials._best(means, trials._scores(self.before()["validation"])["recall"] - .04)]
        kept = [i for i, (_, rate) in enumerate(runs) if rate == best]
        for layer in layers: layer.a.data, layer.b.data = layer.a.data[kept], layer.b.data[kept]
        found = {}
        for split in ("typical", "counter"):
            texts = describe_stacked(self.vlm, self.test_pixels(split, "test"), len(kept), 150)
            found[split] = {runs[i][0]: self.counts(self.scenes(split, "test"), t) for i, t in zip(kept, texts)}
        unstack(self.vlm, layers)
        return dict(pairs=len(data.rows), rate=best, tried=[dict(rate=r, **m) for r, m in zip(s["rates"], means)],
                    losses=losses.tolist(), counts=found)

    def shift(self, n=200):
        """How probable the cue's partner is right behind the cue, as noise rises; blind, and by the language model
        alone"""
        some = self.scenes("counter", "test")[:n]
        hide = lambda k: k and (lambda v: noise.noisy_rows(v, [k] * len(v), range(len(v)), 0))
        ask = lambda pixels: lambda: plausible.partner_probs(self.vlm, some, None, pixels or None, min(n, 10)).tolist()
        asked = {f"k={k}": ask(hide(k)) for k in (0, 500, 800, 200, 400, 600)} | {"grey": ask(torch.zeros_like)}
        asked["language model alone"] = lambda: plausible.blind_probs(*self.language(), some).tolist()
        return {name: self.kept(f"shift-{n}/{name}", make) for name, make in asked.items()}


def shift_summary(probs):
    """name -> the mean, what it is more than without noise, with 95 % intervals over scenes, and the correlation
    with it"""
    picks = np.random.default_rng(0).integers(0, len(probs["k=0"]), (4000, len(probs["k=0"])))
    measure = lambda x: [float(x.mean()), *map(float, np.quantile(x[picks].mean(1), [.025, .975]))]
    clean = np.array(probs["k=0"])
    return {name: dict(mean=measure(np.array(p)), more=measure(np.array(p) - clean),
                       correlation=float(np.corrcoef(p, clean)[0, 1])) for name, p in probs.items()}


def summary(bench):
    "Means over seeds with intervals, and all differences, for each kind of right answers"
    out = dict(seeds=list(bench.sizes["seeds"]), sizes=bench.sizes, versions=stats.versions(), means={},
               differences={}, tried={})
    before = {0: {split: bench.before()[split] for split in ("typical", "counter")}}
    for kind in ("clean", "own"):
        runs, out["tried"][kind] = {"before": before}, {}
        for of, name in cells():
            file = bench.folder/f"cell-{of}-{name}.json"
            if of not in (kind, "any") or not file.exists(): continue
            cell = json.loads(file.read_text())
            runs[name] = {seed: {split: cell["counts"][split][seed] for split in cell["counts"]}
                          for seed in cell["counts"]["counter"]}
            out["tried"][kind][name] = cell["tried"]
        out["means"][kind], out["differences"][kind] = trials._summarise(runs)
    return out


if __name__ == "__main__":
    ask = argparse.ArgumentParser()
    ask.add_argument("folder")
    ask.add_argument("--base", default="real")
    ask.add_argument("--tiny", action="store_true")
    ask.add_argument("--only", help="one cell's name")
    ask.add_argument("--shift", type=int, help="only the partner's probability under noise, on so many scenes")
    given = ask.parse_args()
    torch.set_float32_matmul_precision("high")
    bench = Bench(given.folder, given.base, TINY if given.tiny else FULL)
    n = given.shift or (4 if given.tiny else 200)
    found = shift_summary(bench.shift(n))
    write_json(bench.folder/"shift.json", dict(scenes=n, base=given.base, found=found, versions=stats.versions()))
    for name, one in found.items():
        print(f"P(partner) {name}:",
              *("{} {:.4f} ({:.4f} to {:.4f})".format(what, *one[what]) for what in ("mean", "more")),
              f"correlation {one['correlation']:.2f}", flush=True)
    if given.shift: raise SystemExit
    for kind, name in cells():
        if given.only and name != given.only: continue
        found = bench.kept(f"cell-{kind}-{name}", lambda: bench.cell(kind, name))
        print(kind, name, "rate", found["rate"], found["tried"], flush=True)
    write_json(bench.folder/"summary.json", summary(bench))
