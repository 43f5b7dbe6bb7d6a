"""A model that is spread: every verb gives what it gives from one device, and training is refused where weights are
fetched.

On a CPU accelerate keeps parts on disk and fetches them for each use, with the hooks that move parts between cards;
two devices at once are in `test_devices.py`.
"""
import json

import pytest
import torch

from povid_nb import shift, stages
from povid_nb.attention import attend
from povid_nb.branches import Branches, encode
from povid_nb.pairs import Example, Pair
from povid_nb.vlm import VLM

import tiny_models
from test_attention_models import PICTURES

PAIR = Pair(Example(PICTURES[0], "What", "a red fork", id="p"), "green cup")
PARTS = {"llava": ("model.vision_tower", "model.multi_modal_projector", "model.language_model", "lm_head"),
         "idefics3": ("model.vision_model", "model.connector", "model.text_model", "lm_head")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in PARTS}
    for kind, folder in folders.items(): tiny_models.save(kind, folder)
    return folders


def all_verbs(vlm):
    branch = Branches(vlm)
    vlm.model.requires_grad_(False)              # a head that is frozen is gone through in slices
    scores = branch.step(**branch.collate([encode(vlm, PAIR)]), form="sft")
    swept = shift.sweep(vlm, PICTURES[0], "What", "a red", words=["fork", "knife"], steps=[0, 600], seeds=[3],
                        image_id="p")
    return {"texts": [branch.why_plain, *vlm.describe(PICTURES[:2], ["What", "Is there"], max_new_tokens=4)],
            "score": [score.logps for score in vlm.score(PICTURES[:2], "What", "a red fork")],
            "next_tokens": [word.prob for word in vlm.next_tokens(PICTURES[0], k=3)],
            "shift": swept.probs.flatten().tolist(), "pairs": scores["policy"].flatten().tolist(),
            "attend": attend(vlm, PICTURES[0], "What", "a red fork").image_share().flatten().tolist()}


@pytest.mark.parametrize("kind, away",
                         [("llava", (2,)), ("llava", (0, 1)), ("llava", (3,)), ("llava", (0, 1, 2, 3)),
                          ("idefics3", (1, 2, 3))])
def test_every_verb_gives_the_same_with_parts_on_disk(folders, kind, away):
    where = {part: "disk" if n in away else "cpu" for n, part in enumerate(PARTS[kind])}
    right, spread = VLM.load(folders[kind]), VLM.load(folders[kind], device_map=where)
    fetched = {name for name, p in spread.model.named_parameters() if p.is_meta}
    assert fetched and all(name.startswith(tuple(PARTS[kind][n] for n in away)) for name in fetched), (
        "what is away is not in memory")
    expected, found = all_verbs(right), all_verbs(spread)
    assert spread.device.type == "cpu" and found.pop("texts") == expected.pop("texts")
    assert found == {name: pytest.approx(values, abs=1e-5) for name, values in expected.items()}
    assert {name for name, p in spread.model.named_parameters()
            if p.is_meta} == fetched, "and is away again afterwards"


@pytest.mark.parametrize("device_map", ["auto", {"": "cpu"}])
def test_a_map_onto_one_device_changes_nothing(folders, device_map, monkeypatch):
    expected = VLM.load(folders["llava"]).describe(PICTURES[0], max_new_tokens=4)
    assert VLM.load(folders["llava"], device_map=device_map).describe(PICTURES[0], max_new_tokens=4) == expected
    monkeypatch.setenv("POVID_DEVICE_MAP", json.dumps(device_map) if isinstance(device_map, dict) else device_map)
    assert VLM.load("tiny").describe(PICTURES[0], max_new_tokens=4)
    stages.add_adapter(VLM.load(folders["llava"]))       # and it can be trained


def test_an_adapter_is_refused_and_the_tuned_model_is_not(folders, tmp_path):
    tuned = stages.add_adapter(VLM.load(folders["llava"]), 2)
    for name, p in tuned.model.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(p, std=.3)
    tuned.model.save_pretrained(tmp_path/"adapter")
    where = {part: "disk" if "language" in part else "cpu" for part in PARTS["llava"]}
    with pytest.raises(ValueError, match="an adapter cannot go on .*llava.*, which is offloaded .*save_model"):
        VLM.load(folders["llava"], device_map=where, adapter=tmp_path/"adapter")
    score = lambda vlm: vlm.score(PICTURES[0], "What", "a red fork").logps
    expected, before = score(tuned), score(VLM.load(folders["llava"]))
    stages.save_model(tuned, tmp_path/"whole")
    assert score(VLM.load(tmp_path/"whole", device_map=where)) == pytest.approx(expected, abs=1e-4)
    assert abs(expected - before) > 1e-2


def test_training_of_what_is_on_disk_is_refused_before_any_work(folders, tmp_path):
    vlm = VLM.load(folders["llava"],
                   device_map={part: "disk" if part == "lm_head" else "cpu" for part in PARTS["llava"]})
    for attempt in (lambda: stages.add_adapter(vlm), lambda: stages.train(vlm, [PAIR], tmp_path, 1)):
        said = "is offloaded to main memory or disk and cannot be trained there: .*quantize='4bit'"
        with pytest.raises(ValueError, match=said) as error:
            attempt()
        assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


@pytest.mark.parametrize("wrong, words", [
    ("everywhere", "device_map is 'everywhere'; expected 'auto'"),
    ('{"lm_head": ', "expected 'auto', .* or a dictionary"), ("{}", "or a dictionary"),
    (dict(device="cpu", device_map="auto"), r"to one device \(cpu\) or over several \(device_map\)")])
def test_wrong_maps_are_refused_in_one_line(folders, wrong, words, monkeypatch):
    if isinstance(wrong, str): monkeypatch.setenv("POVID_DEVICE_MAP", wrong)
    with pytest.raises(ValueError, match=words) as error:
        VLM.load(folders["llava"], **wrong if isinstance(wrong, dict) else {})
    assert "\n" not in str(error.value)
