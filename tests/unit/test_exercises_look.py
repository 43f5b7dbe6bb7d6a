"The exercises of 09_attention: mistakes are refused and named, right answers pass however they are written"
import numpy as np
import pytest
import torch
from povid_nb import check


def verdict(name, solution):
    "What the check says of a solution, or nothing where it passes"
    check.exercises()
    return check._why_not(solution, check._ATTEMPTS[name]) or ""


def share_in_a_loop(matrices, is_image, is_answer):
    rows = [float(matrices[:, :, t - 1][..., is_image].sum(-1).mean()) for t in is_answer.nonzero()[:, 0]]
    return sum(rows) / len(rows)


def map_by_index(matrices, is_image, places):
    columns = [i for i, there in enumerate(is_image.tolist()) if there]
    return np.mean([[matrices[:, :, p - 1, c].mean().item() for c in columns] for p in places], axis=0)


def rollout(matrices):
    reach = eye = torch.eye(matrices.shape[-1])
    for layer in matrices: reach = (layer.mean(0) + eye) / 2 @ reach
    return reach


def rollout_in_numpy(matrices):
    steps = [(np.asarray(one).mean(0) + np.eye(one.shape[-1])) / 2 for one in matrices]
    return np.linalg.multi_dot(steps[::-1]) if len(steps) > 1 else steps[0]


def pointing(maps, places):
    return (sum(int(m.argmax()) in place for m, place in zip(maps, places)) / len(maps),
            sum(len(place) / len(m) for m, place in zip(maps, places)) / len(maps))


def pointing_in_numpy(maps, places):
    hits = [np.isin(np.argmax(m), list(place)).any() for m, place in zip(maps, places)]
    return np.array([np.mean(hits), np.mean([len(p) for p in places]) / len(maps[0])])


def drawn(heat, hidden, draws, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.permutation(len(heat))[:hidden] for _ in range(draws)]


def beyond_random(logp, heat, hidden=4, draws=8):
    return float(np.mean([logp(p) for p in drawn(heat, hidden, draws)]) - logp(heat.argsort()[-hidden:]))


def beyond_random_in_falls(logp, heat, hidden=4, draws=8):
    "With the whole picture as well, and lists in place of arrays"
    whole, bright = logp([]), sorted(range(len(heat)), key=lambda i: heat[i])[-hidden:]
    return (whole - logp(bright)) - sum(whole - logp(list(p)) for p in drawn(heat, hidden, draws, 1)) / draws


@pytest.mark.parametrize("name, solution", [
    ("image_share", lambda A, image, answer: float(A[:, :, answer.roll(-1)][..., image].sum(-1).mean())),
    ("image_share", share_in_a_loop),
    ("word_map", lambda A, image, places: A.mean((0, 1))[[p - 1 for p in places]].mean(0)[image]),
    ("word_map", map_by_index),
    ("rollout", rollout), ("rollout", rollout_in_numpy),
    ("pointing", pointing), ("pointing", pointing_in_numpy),
    ("beyond_random", beyond_random), ("beyond_random", beyond_random_in_falls)])
def test_right_answers_pass(name, solution):
    assert verdict(name, solution) == ""


def rolled(keep=1, mix=.5, heads="mean", turned=False):
    def wrong(matrices):
        reach = eye = torch.eye(matrices.shape[-1])
        for layer in matrices:
            step = mix * (getattr(layer, heads)(0) + keep * eye)
            reach = reach @ step if turned else step @ reach
        return reach
    return wrong


def hide(logp, heat, hidden, what):
    "One of the ways to get the occlusion test wrong"
    bright, rng = heat.argsort()[-hidden:], np.random.default_rng(0)
    random = (np.mean([logp(p) for p in drawn(heat, hidden, 8)]) if what in ("sign", "whole", "probability", "dark")
              else None)
    if what == "dark": return random - logp(heat.argsort()[:hidden])
    if what == "control": return logp([]) - logp(bright)
    if what == "whole": return logp([]) - logp(bright)
    if what == "sign": return logp(bright) - random
    if what == "probability": return np.exp(random) - np.exp(logp(bright))
    if what == "repeated": return np.mean([logp(rng.integers(0, 3, hidden)) for _ in range(8)]) - logp(bright)
    if what == "once": return logp(rng.permutation(len(heat))[:hidden]) - logp(bright)
    if what == "one patch": return np.mean([logp(p) for p in drawn(heat, hidden, 8)]) - logp(bright[-1:])
    return None


@pytest.mark.parametrize("name, solution, message", [
    ("image_share", lambda A, image, answer: float(A[:, :, answer][..., image].sum(-1).mean()), "one row too late"),
    ("image_share", lambda A, image, answer: float(A[:, :, answer.roll(-1)][..., image].mean()), "mean over patches"),
    ("image_share", lambda A, image, answer: float(A[..., image].sum(-1).mean()), "rows of all tokens"),
    ("image_share", lambda A, image, answer: float(A[:, :, answer.roll(-1)][..., image].sum()), "this is a sum"),
    ("image_share", lambda A, image, answer: A[:, :, answer.roll(-1)][..., image].sum(-1).mean((0, 1)),
     "expected one number"),
    ("image_share", lambda A, image, answer: None, "Expected"),
    ("image_share", lambda A, image, answer: float(A[0, :, answer.roll(-1)][..., image].sum(-1).mean()), "Expected"),
    ("word_map", lambda A, image, places: A.mean((0, 1))[places].mean(0)[image], "one row too late"),
    ("word_map", lambda A, image, places: A.mean((0, 1))[[p - 1 for p in places]].mean(0), "all columns"),
    ("word_map", lambda A, image, places: A.mean((0, 1))[[p - 1 for p in places]].sum(0)[image], "do not sum"),
    ("word_map", lambda A, image, places: A.mean((0, 1))[places[0] - 1][image], "one token of the word alone"),
    ("word_map", lambda A, image, places: A.mean(0).sum(0)[[p - 1 for p in places]].mean(0)[image],
     "average over layers and heads"),
    ("word_map", lambda A, image, places: (m := A.mean((0, 1))[[p - 1 for p in places]].mean(0)[image]) / m.sum(),
     "do not rescale"),
    ("rollout", rolled(keep=0, mix=1), "add the identity"),
    ("rollout", rolled(mix=1), "halve the sum"),
    ("rollout", rolled(turned=True), "multiplies from the left"),
    ("rollout", rolled(heads="sum"), "average over the heads"),
    ("rollout", lambda A: (A[-1].mean(0) + torch.eye(A.shape[-1])) / 2, "last layer alone"),
    ("rollout", lambda A: (A.mean((0, 1)) + torch.eye(A.shape[-1])) / 2, "rollout multiplies them"),
    ("rollout", lambda A: A.mean(1), "expected a matrix"),
    ("pointing", lambda maps, places: pointing(maps, places)[0], "expected (accuracy, chance)"),
    ("pointing", lambda maps, places: pointing(maps, places)[::-1], "accuracy first"),
    ("pointing", lambda maps, places: (3, .5), "this is a count"),
    ("pointing", lambda maps, places: (np.mean([m[p].sum() / m.sum() for m, p in zip(maps, places)]), .5),
     "only where its brightest patch is"),
    ("pointing", lambda maps, places: pointing([-m for m in maps], places), "the darkest patch"),
    ("pointing", lambda maps, places: pointing(maps, [p[:1] for p in places]), "several patches"),
    ("pointing", lambda maps, places: (pointing(maps, places)[0], 1 / len(maps[0])), "larger for a larger object"),
    ("pointing", lambda maps, places: (pointing(maps, places)[0], np.mean([len(p) for p in places])),
     "divide by the patches"),
    *[("beyond_random", lambda logp, heat, hidden=4, draws=8, what=what: hide(logp, heat, hidden, what), message)
      for what, message in {
        "dark": "the darkest patches", "control": "compare with hiding random ones",
        "whole": "subtract what hiding random patches costs",
        "sign": "the sign is turned", "probability": "not probabilities", "repeated": "without repetition",
        "once": "several random sets", "one patch": "were never hidden", "nothing": "were never hidden"}.items()]])
def test_mistakes_are_refused_and_named(name, solution, message):
    assert message in verdict(name, solution), verdict(name, solution)


@pytest.mark.parametrize("name", ["image_share", "word_map", "rollout", "pointing", "beyond_random"])
def test_an_empty_stub_is_not_started(name, capsys):
    def stub(*args): ...
    assert check.check(stub, name, keep=False) is False
    assert "not started yet" in capsys.readouterr().out
