"""The parts of `attention` that need no real model, and the built-in model's own figures: parts of a line, classes,
sums, files, the command"""
import json, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from povid_nb import attention, coco, trust, world
from povid_nb.attention import _AVERAGE, Attention, ImageShares, _Tally
from povid_nb.vlm import VLM

SCENE = world.Scene.of(("grey", "fork", "left"), ("white", "plate", "middle"), ("red", "ball", "top"))


@pytest.fixture(scope="module")
def vlm():
    return VLM.load()


class Given:
    "A layer whose lines are given: [heads, tokens, tokens]"
    def __init__(self, table, number=0): self.table, self.number = torch.as_tensor(table, dtype=torch.float32), number
    def probs(self, row, queries): return self.table[:, queries]


def made(text="A red cup.", shares=None):
    "An Attention of hand-made numbers: one token for each word and the stop"
    tokens, spans, at = ["A", "red", "cup", ".", "</s>"], [(0, 1), (2, 5), (6, 9), (9, 10), (10, 10)], 5
    shares = np.tile([.1, 0, .4, .2, .3], (2, 3, at, 1)) if shares is None else shares
    patches = {_AVERAGE: np.arange(20, dtype=float).reshape(5, 4) / 40}
    return Attention(text, tokens, spans, shares, np.zeros((2, 3, at)), np.zeros((2, 4), bool), patches,
                     np.full((5, 9), 1 / 9), np.arange(9) < 4, (2, 2), Image.new("RGB", (8, 8)))


# ---- One line, cut in five ------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 3), st.integers(1, 6), st.integers(0, 4), st.integers(1, 5), st.integers(0, 99))
def test_parts_of_a_line(before, patches, behind, answer, seed):
    "Whatever stands where: five parts, each the sum of its columns, and 1 together"
    ids = torch.tensor([5] * before + [9] * patches + [5] * behind + [6] * answer)
    start, n = before + patches + behind, len(ids)
    draw = torch.Generator().manual_seed(seed)
    table = (torch.randn(3, n, n, generator=draw).masked_fill(torch.ones(n, n).triu(1).bool(), -1e9)).softmax(-1)
    tally = _Tally(ids, torch.arange(n) >= start, 9, views=(_AVERAGE, (0, 1)))
    tally(Given(table), 0)
    first, sinks, image, prompt, said = tally.shares[0].unbind(-1)
    lines = table[:, start - 1:n - 1]
    assert torch.allclose(sum((first, sinks, image, prompt, said)), torch.ones(3, answer), atol=1e-5)
    assert torch.allclose(sinks + image, lines[..., before:before + patches].sum(-1), atol=1e-5)
    assert torch.allclose(said, lines[..., start:].sum(-1), atol=1e-5)
    assert (first == 0).all() if before == 0 else torch.allclose(first, lines[..., 0])
    assert torch.allclose(tally.maps[0, 1], lines[1][:, before:before + patches])
    assert torch.allclose(tally.rows, lines.mean(0)[:, :n])


def test_what_a_sink_is():
    "Drawn to by at least half of the tokens, five times over: a sink. By one token, or four times: none"
    ids, answer = torch.tensor([5] + [9] * 10 + [6] * 6), torch.arange(17) >= 11
    def sinks(column, tokens, value):
        table = torch.full((1, 17, 17), .01)
        table[:, 10:10 + tokens, 1 + column] = value
        tally = _Tally(ids, answer, 9); tally(Given(table), 0)
        return tally.sinks[0].nonzero()[:, 0].tolist()
    assert sinks(4, 6, .3) == [4] and sinks(0, 6, .3) == [0]
    assert sinks(4, 1, .3) == [] and sinks(4, 6, .04) == []


def test_a_first_token_that_is_a_patch_counts_as_a_sink():
    tally = _Tally(torch.tensor([9] * 4 + [5, 6, 6]), torch.arange(7) >= 5, 9)
    tally(Given(torch.full((1, 7, 7), 1 / 7)), 0)
    assert tally.sinks[0].tolist() == [True, False, False, False]
    assert torch.allclose(tally.shares[0][..., 0], torch.zeros(1, 2))


# ---- Words ----------------------------------------------------------------------------------------------------------

def test_words_and_maps():
    look = made()
    assert look.words() == [("A", [0]), ("red", [1]), ("cup", [2])]
    assert look.tokens_of("CUP") == [2]
    assert look.tokens_of(3) == [3]
    # the mean of all is this word's
    assert np.allclose(look.map("cup"), look.maps[_AVERAGE][2]) and np.allclose(look.map("cup", relative=True), 0)
    assert np.allclose(look.map(4, relative=True), look.maps[_AVERAGE][4] - look.maps[_AVERAGE][2])
    look.sinks[0, 1] = True
    assert look.map("cup", sinks=False)[1] == 0 and look.map("cup", sinks=False)[0] == look.map("cup")[0]
    assert np.allclose(look.image_share(), .4) and np.allclose(look.image_share(sinks=False), .4 / .9)
    for word in ("cups", "re", "knife"):
        with pytest.raises(ValueError, match=f"'{word}' is not in the answer 'A red cup.': choose one of its words"):
            look.map(word)


def test_spans_of_any_pieces(vlm):
    "Each token's part of the text, whatever the text"
    for text in ("There is a stoplight on the left.", "no", "A  red   cup , two; Übermut"):
        ids = torch.tensor(vlm.tokenizer(text, add_special_tokens=False)["input_ids"] + [vlm.end_id()])
        said, spans = attention._spans_of(vlm, ids)
        assert said == vlm.tokenizer.decode(ids, skip_special_tokens=True).strip() and len(spans) == len(ids)
        assert "".join(said[a:b] for a, b in spans) == said.replace(" ", "") and spans[-1][0] == spans[-1][1]


def test_classes(vlm):
    answer = "There is a grey fork beside the red dog. A dog is left of a white plate."
    look = attention.attend(vlm, SCENE, world.DESCRIBE, answer)
    kinds = attention.word_classes(look, SCENE.objects)
    of = lambda word, n=0: kinds[[i for i, (a, b) in enumerate(look.spans) if look.text[a:b] == word][n]]
    assert [of("fork"), of("dog"), of("dog", 1), of("plate"), of("grey"), of("red"), of("beside"), of("left"),
            of(".")] == ["object", "hallucinated", "repeated", "object", "attribute", "attribute", "function", "other",
                         None]
    assert kinds[-1] is None and len(kinds) == len(look.tokens)
    unknown = attention.word_classes(look)
    assert "hallucinated" not in unknown and unknown.count("object") == 3
    found = attention.word_classes(look, {"fork"}, coco.coco_vocabulary(), {"white"})
    assert found[[look.text[a:b] for a, b in look.spans].index("fork")] == "object" and found.count("attribute") == 1


# ---- Sums -----------------------------------------------------------------------------------------------------------

def test_row_of_by_hand():
    shares = np.zeros((1, 1, 4, 5))
    shares[0, 0] = [[.2, .1, .3, .2, .2], [0, 0, .8, .1, .1], [.5, 0, .1, .2, .2], [1, 0, 0, 0, 0]]
    row = attention._sums_of(made(shares=shares), ["object", "object", "function", None])
    assert row["n/object"] == 2
    assert row["image/object"] == pytest.approx(1.2)
    assert row["seen/object"] == pytest.approx(1.1)
    assert row["rest/object"] == pytest.approx(1.7)
    assert row["n/all"] == 3
    assert row["image/all"] == pytest.approx(1.3)
    assert row["n/hallucinated"] == 0
    assert row["image/hallucinated"] == 0


def test_shares_are_token_weighted_means(vlm):
    scenes = world.scenes("counter", "test", 6)
    answers = [scene.caption() for scene in scenes]
    found, looks = attention.image_shares(vlm, scenes, world.DESCRIBE,
                                          answers), [attention.attend(vlm, s, world.DESCRIBE, a)
                                                     for s, a in zip(scenes, answers)]
    values, by_class = found.intervals(), {}
    for look, scene in zip(looks, scenes):
        for share, kind in zip(look.image_share(), attention.word_classes(look, scene.objects)):
            if kind: by_class.setdefault(kind, []).append(share)
    for kind, shares in by_class.items(): assert values[kind].value == pytest.approx(np.mean(shares), abs=1e-5)
    assert "hallucinated" not in values
    assert values["all"].value == pytest.approx(np.mean(sum(by_class.values(), [])), abs=1e-5)
    assert all(i.low <= i.value <= i.high for i in values.values()) and found.by_head.shape == (6, 4, 6)


def made_shares(object_share, n=30):
    noise = np.random.default_rng(0).normal(0, .01, n)
    columns = {f"{part}/{name}": np.zeros(n) for part in ("n", "image", "seen", "rest")
               for name in (*attention._CLASSES, "all")}
    for name in ("object", "all"):
        columns |= {f"n/{name}": np.full(n, 2.), f"image/{name}": 2 * (object_share + noise),
                    f"seen/{name}": 2 * object_share + noise, f"rest/{name}": np.full(n, 2.)}
    return ImageShares({k: list(v) for k, v in columns.items()},
                       np.full((n, 2, 3), object_share) + noise[:, None, None], [f"image {i}" for i in range(n)])


def test_a_difference_is_paired_and_counts_images():
    "Answers differ by .01, and by the same .02 between the models: a paired interval is narrow"
    before, after = made_shares(.40), made_shares(.42)
    one = before.compare(after)["object"]
    assert one.difference == pytest.approx(.02)
    assert one.high - one.low < 1e-6
    assert set(before.compare(after)) == {"object", "all", "object, no sinks", "all, no sinks"}
    assert before.intervals()["object"].value == pytest.approx(.40, abs=.01)


def test_adapters_on_the_same_answers(vlm, tmp_path):
    "An adapter of nothing changes nothing; one that changes much changes the shares of the same words"
    from peft import LoraConfig, get_peft_model
    scenes = world.scenes("typical", "test", 3)
    answers, shares = vlm.describe(scenes), {}
    for name, nothing in (("nothing", True), ("much", False)):
        model = VLM.load().model
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=8, init_lora_weights=nothing,
                            target_modules=r".*language_model.*\.(q_proj|k_proj)")
        get_peft_model(model, config).save_pretrained(tmp_path/name)
        tuned = VLM.load(adapter=tmp_path/name)
        shares[name] = attention.image_shares(tuned, scenes, world.DESCRIBE, answers).columns
    base = attention.image_shares(vlm, scenes, world.DESCRIBE, answers).columns
    assert np.allclose(shares["nothing"]["image/all"], base["image/all"], atol=1e-4)
    assert shares["much"]["n/all"] == base["n/all"]
    assert not np.allclose(shares["much"]["image/all"], base["image/all"], atol=1e-3)


# ---- Pointing and hiding --------------------------------------------------------------------------------------------

def test_the_nine_places():
    assert trust._patches_at(0, (6, 6)).tolist() == [0, 1, 6, 7] and trust._patches_at(4, (3, 3)).tolist() == [4]
    for grid in ((6, 6), (24, 24), (8, 8), (4, 6)):
        assert sorted(np.concatenate([trust._patches_at(p, grid) for p in range(9)])) == list(range(grid[0] * grid[1]))


def test_trust(vlm):
    "Each number again by hand: the chance, the hits of a map, the fall of a hidden word"
    scenes = world.scenes("typical", "test", 2)
    tried = trust.point_and_occlude(vlm, scenes)
    n = sum(len(scene.things) for scene in scenes)
    assert tried.chance == 1 / 9 and len(tried.names) == n == len(tried.hits["attention"])
    look = attention.attend(vlm, scenes[0], world.DESCRIBE, scenes[0].caption())
    word, place = trust._named(look, scenes[0])[0]
    seen = look.map(word)
    row, column = divmod(int(seen.argmax()), 6)
    assert tried.hits["attention"][0] == (3 * (row // 2) + column // 2 == place)
    hidden = trust._patches_at(place, (6, 6))
    logp = lambda pixels: float(vlm.score(scenes[0], world.DESCRIBE, look.text, pixels=pixels)
                                .token_logps[look.tokens_of(word)].sum())
    original = vlm.inputs(scenes[0], world.DESCRIBE)["pixel_values"]
    mean = original[0].mean((-2, -1))[:, None, None]
    def covered(values):
        values = values.clone()
        for patch in hidden:
            r, c = divmod(int(patch), 6); values[0, :, 16 * r:16 * r + 16, 16 * c:16 * c + 16] = mean
        return values
    assert tried.drops["the object's place"][0] == pytest.approx(logp(None) - logp(covered), abs=1e-3)
    assert set(tried.hits) >= {"attention", "attention, relative", "rollout", "gradient x attention",
                               "attention at another word"}


def test_control_words_are_of_the_same_picture():
    words = [(0, "a", 1), (0, "b", 2), (1, "c", 3), (0, "d", 4)]
    assert trust._elsewhere(words) == [1, 3, 2, 0]


# ---- The command, and the exercise ----------------------------------------------------------------------------------

def povid(*words):
    script = Path(sys.executable).with_name("povid")
    return subprocess.run([*([script] if script.exists() else [sys.executable, "-m", "povid_nb.cli"]),
                           *map(str, words)], capture_output=True, text=True)


def test_povid_attend(tmp_path, vlm):
    SCENE.image().save(tmp_path/"scene.png")
    done = povid("attend", tmp_path/"scene.png", "--answer", "A grey fork is on the left.", "--words", "grey, fork",
                 "--out", tmp_path/"out")
    assert done.returncode == 0
    assert sorted(f.name for f in (tmp_path/"out").iterdir()) == ["attention.json", "heatmap.png", "matrix.png",
        "strip.png"]
    kept = json.loads((tmp_path/"out"/"attention.json").read_text())
    look = attention.attend(vlm, tmp_path/"scene.png", world.DESCRIBE, "A grey fork is on the left.")
    assert kept["words"] == ["grey", "fork"]
    assert np.allclose(kept["models"]["model"]["words"]["fork"]["patches"], look.map("fork"), atol=1e-5)
    for words, said in ((("--words", "unicorn"), "error: 'unicorn' is not in the answer"),
                        (("--adapter", tmp_path), "holds no adapter")):
        done = povid("attend", tmp_path/"scene.png", "--answer", "A fork.", *words, "--out", tmp_path/"none")
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path/"none").exists()
    done = povid("attend", tmp_path/"nothing.png")
    assert done.returncode == 1 and done.stderr == f"error: no image file at {tmp_path}/nothing.png\n"
