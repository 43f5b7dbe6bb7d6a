"The walk of one pair from its file to its loss, as CONTRIBUTING.md lists it, is the one that the code takes"
import random, re, sys
from pathlib import Path
from povid_nb import lies, pairs, stages
from povid_nb.branches import Branches
from povid_nb.train import PovidConfig, PovidTrainer
from povid_nb.vlm import VLM

ROOT = Path(__file__).parents[2]


def listed():
    "The calls that CONTRIBUTING.md numbers, as module.function"
    part = (
        ROOT/"CONTRIBUTING.md").read_text(
            encoding="utf-8").split("## One pair, from file to loss")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w.]+)`", part, re.MULTILINE)


def taken(work, names):
    "The same functions in the order in which the code first calls them"
    seen = []

    def notice(frame, event, arg):
        code = frame.f_code
        if event != "call" or Path(code.co_filename).parent != ROOT/"povid_nb": return
        name = f"{Path(code.co_filename).stem}.{code.co_name}"
        if name in names and name not in seen: seen.append(name)
    sys.setprofile(notice)
    try: work()
    finally: sys.setprofile(None)
    return seen


def test_a_pair_takes_the_listed_way(tmp_path):
    kind, rng = "co-occurrence", random.Random(0)
    pair = next(found for example in lies.world_examples(20) if (found := lies.lie(example, kind, rng)))
    pairs.write([pair], tmp_path/"pairs.jsonl")
    vlm = VLM.load("tiny")
    stages.add_adapter(vlm)
    Branches(vlm)        # tries packing on a made-up pair, once for a model
    config = PovidConfig(str(tmp_path/"out"), form="released", max_steps=1, report_to=[], disable_tqdm=True)
    names = listed()
    assert 8 <= len(names) <= 12
    assert taken(lambda: PovidTrainer(vlm, config, pairs.read(tmp_path/"pairs.jsonl")).train(), names) == names
