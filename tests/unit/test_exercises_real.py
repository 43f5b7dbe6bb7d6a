"The checks of lesson 10 accept right answers in several spellings, and name the mistake in wrong ones"
import math, re
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from povid_nb import check, standin, stages

check.exercises()


def why(name, solution): return check._why_not(solution, check._ATTEMPTS[name])


def by_transformers(width, height, most_pixels):
    h, w = smart_resize(height, width, factor=28, min_pixels=1, max_pixels=most_pixels) if max(width,
        height) < 200 * min(width, height) \
        else _by_hand(height, width, most_pixels)
    return h * w // 784


def _by_hand(height, width, most):
    h, w = (max(28, round(s / 28) * 28) for s in (height, width))
    if h * w <= most: return h, w
    by = math.sqrt(height * width / most)
    return tuple(max(28, math.floor(s / by / 28) * 28) for s in (height, width))


def tokens(whole=round, shrunk=math.floor, merge=1, most=True):
    def qwen_tokens(width, height, most_pixels):
        sides = [max(1, whole(s / 28)) for s in (width, height)]
        if most and sides[0] * sides[1] * 784 > most_pixels:
            by = math.sqrt(width * height / most_pixels)
            sides = [max(1, shrunk(s / by / 28)) for s in (width, height)]
        return merge * sides[0] * sides[1]
    return qwen_tokens


def gb(frozen=lambda bits: 4.5 if bits == 4 else bits, whole=lambda bits: 16, adapter=16):
    return lambda n, kept, learn, bits: (n * frozen(bits) / 8 + kept * whole(bits) / 8 + learn * adapter) / 1e9


def inside(layers, language_model): return [n for n in layers if n.startswith(language_model + ".")]
def all_linear(layers, language_model): return [n for n in layers if n != "lm_head"]
def by_ending(layers, language_model): return [n for n in layers if n.endswith(("q_proj", "down_proj", "up_proj"))]


RIGHT = {
    "lora_layers": [inside, lambda layers, lm: [n for n in layers if re.match(re.escape(lm) + r"\.", n)]],
    "lora_parameters": [lambda shapes, rank: sum(rank * (a + b) for a, b in shapes),
                        lambda shapes, rank: rank * sum(map(sum, shapes))],
    "training_gb": [gb(),
                    lambda n, kept, learn, bits: (n * (bits + .5 * (bits == 4)) + 16 * kept + 128 * learn) / 8e9],
    "qwen_tokens": [tokens(), by_transformers],
    "run_cost": [lambda n, e, s, p: (n * e * s / 60, n * e * s / 3600 * p),
                 lambda n, e, s, p: [n * e * s / 60, p * (n * e * s / 60) / 60]],
    "named_though_absent": [lambda c: tuple(sum(c[f"{k}_named"]) / max(1, sum(c[k]))
                                            for k in ("partners", "bystanders")),
                            lambda c: [sum(c[k + "_named"]) / sum(c[k]) if sum(c[k]) else 0.
                                       for k in ("partners", "bystanders")]]}

def shares(of, kinds=("partners", "bystanders")): return lambda c: tuple(of(c[f"{k}_named"], c[k]) for k in kinds)
def safe(a, b): return sum(a) / max(1, sum(b))


WRONG = [
    ("lora_layers", by_ending, "match the path"),
    ("lora_layers", lambda layers, lm: [n for n in layers if "vision" not in n and n != "lm_head"], "the projector"),
    ("lora_layers", lambda layers, lm: [n for n in layers if n.startswith((lm, "lm_head"))], "lm_head"),
    ("lora_layers", lambda layers, lm: [n for n in inside(layers, lm) if "attn" in n], "MLP layers are missing"),
    ("lora_layers", lambda layers, lm: [n for n in layers if n.startswith(lm)], "add the dot"),
    ("lora_parameters", lambda shapes, rank: sum(rank * a * b for a, b in shapes), "not by in times out"),
    ("lora_parameters", lambda shapes, rank: sum(rank * (a + b) for a, b in shapes) / 2, "two matrices"),
    ("lora_parameters", lambda shapes, rank: len(shapes) * rank * sum(shapes[0]), "own in and out"),
    ("training_gb", gb(frozen=lambda bits: bits), "half a bit more"),
    ("training_gb", gb(whole=lambda bits: 4.5 if bits == 4 else 16), "kept whole stay in 16 bits"),
    ("training_gb", gb(adapter=4), "16 bits"),
    ("training_gb", lambda n, kept, learn, bits: gb(adapter=16 if bits == 16 else 2)(n, kept, learn, bits),
     "two moments"),
    ("qwen_tokens", tokens(merge=4), "merged into one token"),
    ("qwen_tokens", tokens(whole=math.floor), "nearest multiple"),
    ("qwen_tokens", tokens(most=False), "not heeded"),
    ("qwen_tokens", tokens(shrunk=math.ceil), "round down"),
    ("qwen_tokens", lambda width, height, most: width * height / 784, "whole numbers"),
    ("run_cost", lambda n, e, s, p: (n * e * s, n * e * s / 3600 * p), "these are seconds"),
    ("run_cost", lambda n, e, s, p: (n * s / 60, n * s / 3600 * p), "multiply by epochs"),
    ("run_cost", lambda n, e, s, p: (n * e * s / 60, n * e * s / 60 * p), "for an hour"),
    ("named_though_absent", shares(safe, ("bystanders", "partners")), "partners come first"),
    ("named_though_absent", shares(lambda a, b: sum(x / max(1, y) for x, y in zip(a, b)) / len(a)),
     "mean over descriptions"),
    ("named_though_absent", shares(lambda a, b: sum(x / y for x, y in zip(a, b) if y) / (sum(y > 0 for y in b) or 1)),
     "mean over descriptions"),
    ("named_though_absent", shares(lambda a, b: sum(x / y for x, y in zip(a, b)) / len(a)), "sum first, then divide"),
    ("named_though_absent", shares(lambda a, b: sum(a) / len(a)), "not by the descriptions"),
    ("named_though_absent", shares(lambda a, b: sum(a)), "this is a count"),
    ("named_though_absent", shares(lambda a, b: sum(a) / sum(b)), "a share of 0")]


@pytest.mark.parametrize("name, solution", [(name, s) for name, found in RIGHT.items() for s in found])
def test_a_right_answer_is_accepted(name, solution):
    assert why(name, solution) is None


@pytest.mark.parametrize("name, solution, mistake", WRONG)
def test_a_wrong_answer_is_refused_and_its_mistake_named(name, solution, mistake):
    assert mistake in (why(name, solution) or "accepted")


def test_each_exercise_has_three_wrong_answers_and_two_right_ones():
    for name, right in RIGHT.items():
        assert len(right) >= 2 and sum(wrong[0] == name for wrong in WRONG) >= 3


# ---- Stand-ins ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, model", [("smolvlm", "Idefics3"), ("qwen", "Qwen2_5_VL"), ("llava", "Llava")])
def test_a_stand_in_has_the_real_class_and_is_the_same_for_a_seed(kind, model):
    one, two, three = standin._stand_in(kind), standin._stand_in(kind), standin._stand_in(kind, seed=1)
    assert type(one.base).__name__ == f"{model}ForConditionalGeneration"
    weights = lambda vlm: next(p for n, p in vlm.model.named_parameters() if "q_proj" in n)
    assert weights(one).equal(weights(two)) and not weights(one).equal(weights(three))


def test_without_a_card_a_stand_in_is_announced(capsys, monkeypatch):
    monkeypatch.delenv("POVID_MODEL", raising=False)
    monkeypatch.setattr(standin, "pick_device", lambda: __import__("torch").device("cpu"))
    vlm = standin.load_or_stand_in("Qwen/Qwen2.5-VL-3B-Instruct", "qwen")
    said = capsys.readouterr().out
    assert "no GPU" in said and "Qwen/Qwen2.5-VL-3B-Instruct" in said and said.count("\n") == 1
    assert vlm.name == "a stand-in for qwen"


def test_a_chosen_model_comes_before_a_stand_in(monkeypatch):
    monkeypatch.setenv("POVID_MODEL", "tiny")
    assert standin.load_or_stand_in("Qwen/Qwen2.5-VL-3B-Instruct", "qwen").name == "tiny"


@pytest.mark.parametrize("kind", ["smolvlm", "qwen", "llava"])
def test_the_library_puts_adapters_where_the_exercise_does(kind):
    vlm = standin._stand_in(kind)
    linear = [n for n, m in vlm.base.named_modules() if type(m).__name__ == "Linear"]
    assert [n for n in linear if re.fullmatch(stages.adapter_targets(vlm), n)] == inside(linear,
        vlm.paths()["language_model"])
