"""How plausible lies are to a language model that does not see: python -m bench.plausibility SUGARCREPE [PAIRS]

Writes povid_nb/results/plausibility.json: published lies (all of SugarCrepe), rule-based ones about drawn and
photographed scenes, and those that the language model writes itself. Needs povid_nb[real] and Debian's cut-outs; 1,000
pairs take three minutes of a core.
"""
import random, sys
from povid_nb import measure, parts, plausible, procs, realworld, stats, trials
from povid_nb.lies import LIES


def pairs_of(folder, n, model, tokenizer):
    "source -> [(truth, lie)]: all published ones, and at most n of each other source"
    found = {f"SugarCrepe, {kind.replace('_', ' ')}": pairs
             for kind, pairs in plausible.read_sugarcrepe(folder).items()}
    for kind in LIES:
        made = [p for p in trials.world_pairs(8 * n, kinds=(kind,), captions=0. if kind == "reasoning" else 1.)]
        found[f"rules, drawn scenes, {kind}"] = [(p.chosen, p.rejected) for p in made][:n]
    scenes = realworld.scenes(realworld.stamps(), "counter", "pairs", n)
    texts = [scene.caption() for scene in scenes]
    rng = random.Random(0)
    rule = [(t, plausible.rule_lie(s, t, rng)) for s, t in zip(scenes, texts)]
    blind = [(t, plausible.blind_lie(model, tokenizer, s, t, rng)) for s, t in zip(scenes, texts)]
    kept = lambda pairs: [p for p in pairs if p[1]]
    return (found
            | {"rules, photographed things": kept(rule), "the blind model itself, photographed things": kept(blind)})


if __name__ == "__main__":
    n = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    model, tokenizer = parts.language_model()
    pairs = pairs_of(sys.argv[1], n, model, tokenizer)
    found, file = {}, measure.RESULTS/"plausibility.json"
    for name, some in pairs.items():
        found |= plausible.meter(model, tokenizer, {name: some})
        print(name, found[name], flush=True)
        procs.write_json(file, dict(pairs=n, found=found, versions=stats.versions(),
                                    examples={k: v[0] for k, v in pairs.items()}))
