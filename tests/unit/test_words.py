"Words from pieces: a model whose every prediction is written down here, so that all probabilities are known"
import math, random, sys
from pathlib import Path
import pytest, torch
from hypothesis import given, strategies as st
from PIL import Image
from povid_nb import words

sys.path.insert(0, str(Path(__file__).parents[1]/"models"))
import tiny_models as tiny   # noqa: E402

SCRIPT = {"": {"▁be": .4, "▁fork": .3, "</s>": .1, "▁": .08, ".": .02, "<0xC3>": .01},
          "▁be": {"n": .9}, "▁be n": {"c": .8}, "▁be n c": {"h": .7}, "▁be n c h": {"▁and": .6, "y": .3},
          "▁fork": {"▁and": .5, "y": .4}, "</s>": {"y": .9}, ".": {"y": .9},
          "▁": {"f": .5}, "▁ f": {"o": .5}, "▁ f o": {"r": .5}, "▁ f o r": {"k": .5}, "▁ f o r k": {".": .9},
          "<0xC3>": {"<0xBC>": .6}, "<0xC3> <0xBC>": {"▁and": .9}}


@pytest.fixture(scope="module")
def vlm(): return tiny.load("llava")


@pytest.fixture
def image(): return Image.frombytes("RGB", (40, 30), random.Random(0).randbytes(3600))


@pytest.fixture
def scripted(vlm, monkeypatch):
    "The model above, under one picture"
    vlm.asked = []
    def passes(vlm, batch, features, contexts, max_tokens):
        vlm.asked.append([" ".join(vlm.tokenizer.convert_ids_to_tokens(context)) for context in contexts])
        for context in dict.fromkeys(contexts):
            logps = torch.full((1, len(vlm.tokenizer)), -30.)
            for token, prob in SCRIPT[" ".join(vlm.tokenizer.convert_ids_to_tokens(context))].items():
                logps[0, vlm.tokenizer.convert_tokens_to_ids(token)] = math.log(prob)
            yield context, [0], logps
    monkeypatch.setattr(words, "_passes", passes)
    monkeypatch.setattr(words, "_encoded", lambda vlm, batch, max_tokens: iter([([0], batch, None)]))
    return vlm


def test_pieces_grow_into_words_and_two_spellings_add_up(scripted):
    found = {w.text: w.prob for w in words.likely_words(scripted, {}, (), 6)}
    assert found == pytest.approx({"bench": .4 * .9 * .8 * .7, "fork": .3 + .08 * .5**4, "</s>": .1, ".": .02,
                                   "ü": .01 * .6}, rel=1e-4)
    assert list(found) == sorted(found, key=found.get, reverse=True)


@pytest.mark.parametrize("longest, expected",
                         [(1, {"be": .4, "fork": .3}), (2, {"ben": .4 * .9, "fork": .3}),
                          (3, {"benc": .4 * .9 * .8, "fork": .3})])
def test_words_stop_at_their_longest(scripted, longest, expected):
    assert {w.text: w.prob for w in words.likely_words(scripted, {}, (), 2, longest)} == pytest.approx(expected,
        rel=1e-4)


def test_given_words_follow_the_chain_rule(scripted):
    pieces = [tuple(scripted.tokenizer.convert_tokens_to_ids(word))
              for word in (["▁be", "n", "c", "h"], ["▁fork"], ["▁", "f", "o"])]
    probs, tokens = words.word_probs(scripted, {"input_ids": torch.zeros(1, 3)}, [()], pieces)
    assert probs[0, 0].tolist() == pytest.approx([.4 * .9 * .8 * .7, .3, .08 * .5 * .5], rel=1e-4)
    assert tokens.shape == (1, 1, len(scripted.tokenizer)) and float(tokens[0, 0].exp().max()) == pytest.approx(.4)


def test_a_word_whose_beginning_is_improbable_is_not_followed(scripted):
    ids = scripted.tokenizer.convert_tokens_to_ids
    pieces = [tuple(ids(word))
              for word in (["▁be", "n", "c", "h"], ["▁fork", "y"], ["<0xC3>", "<0xBC>"], ["▁", "f", "o"], ["."])]
    batch = {"input_ids": torch.zeros(1, 3)}
    probs, _ = words.word_probs(scripted, batch, [()], pieces, least=.05)
    # ▁ f: .08 * .5 is less than .05
    assert probs[0, 0].tolist() == pytest.approx([.4 * .9 * .8 * .7, .3 * .4, 0, 0, .02], rel=1e-4)
    assert scripted.asked == [[""], ["▁be", "▁fork", "▁"], ["▁be n"], ["▁be n c"]]
    exact, _ = words.word_probs(scripted, batch, [()], pieces)
    assert exact[0, 0].tolist() == pytest.approx([.4 * .9 * .8 * .7, .3 * .4, .01 * .6, .08 * .5 * .5, .02], rel=1e-4)
    assert len(scripted.asked) == 5


def test_a_word_that_begins_another_has_its_own_probability(scripted):
    pieces = [tuple(scripted.tokenizer.convert_tokens_to_ids(word)) for word in (["▁be"], ["▁be", "n"], ["▁be"])]
    assert words.word_probs(scripted, {"input_ids": torch.zeros(1, 3)}, [()], pieces)[0][0,
        0].tolist() == pytest.approx([.4, .4 * .9, .4])


def test_a_prefix_may_end_in_a_space(vlm, image):
    a, b = (vlm.next_tokens(image, prefix=prefix, words=["fork", "."]) for prefix in ("There is a", "There is a "))
    assert a == b
    assert vlm.next_tokens(image, prefix="There is a", words="fork") == a[:1]
    assert vlm.next_tokens(image, words=[]) == []


def test_a_mark_follows_without_a_space(vlm):
    prefix, (word, dot) = words._spell(vlm, "What", "a red fork", ["knife", "."])
    assert vlm.tokenizer.decode(prefix + word).strip() == "a red fork knife"
    assert vlm.tokenizer.decode(prefix + dot).strip() == "a red fork."


# ---- What is run, and how much at once ------------------------------------------------------------------------------

@given(st.lists(st.lists(st.integers(0, 2), max_size=4).map(tuple), min_size=1, max_size=12))
def test_only_the_longest_contexts_are_run(contexts):
    paths = words._longest(contexts)
    assert sorted(c for inside in paths.values() for c in inside) == sorted(set(contexts))          # each once
    # where it can be read
    assert all(path[:len(c)] == c for path, inside in paths.items() for c in inside)
    continued = {c for c in contexts if any(other[:len(c)] == c and other != c for other in contexts)}
    assert set(paths) == set(contexts) - continued                                                  # and no more rows
    assert [len(path) for path in paths] == sorted(map(len, paths), reverse=True)


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(9, 40))
def test_portions_stay_below_the_bound(sizes, bound):
    sizes = sorted(sizes, reverse=True)
    portions = list(words._portions(sizes, lambda size: size, bound))
    assert [size for portion in portions for size in portion] == sizes
    assert all(len(portion) * portion[0] <= bound for portion in portions)
    # none could take one more
    assert all((len(portion) + 1) * portion[0] > bound for portion in portions[:-1])


def test_a_row_beyond_the_bound_is_refused():
    with pytest.raises(ValueError, match="one row has 700 tokens and max_tokens is 512: raise max_tokens"):
        list(words._portions([700], lambda size: size, 512))
