"The checks of the labs' exercises accept right answers in several spellings, and name the mistake in wrong ones"
import math
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from povid_nb import check, trials, world

check.exercises()
N = 8
PAIRS = lambda seed: trials.world_pairs(N, seed)
CODE = dict(stage="1", num_train_epochs=2, noise_space="pixels", noise_overflow="wrap", form="released",
            own_tokens=True)
BOTH = dict(stage="1", form="paper", num_train_epochs=2)


def why(name, solution): return check._why_not(solution, check._ATTEMPTS[name])
def gives(**options): return lambda: (PAIRS, options)


def carried(pair="{} - before", default="counter", measure="chair_s", clear=lambda d: d[1] * d[2] > 0, skip="before"):
    def solution(saved, split=default):
        each = {who: saved["differences"].get(pair.format(who)) for who in saved["means"] if who != skip}
        each = {who: d[split][measure] if d else [0., 0., 0.] for who, d in each.items()}
        return {who: (d[0], clear(d)) for who, d in each.items()}
    return solution


def pick(key=lambda m: m["chair_s"][0], enough=lambda m, least: m["recall"][0] >= least, loss=.04, skip="before"):
    def solution(saved):
        rows = {who: m["counter"] for who, m in saved["means"].items()}
        least = rows["before"]["recall"][0] - loss
        return min((who for who in rows if who != skip and enough(rows[who], least)), key=lambda who: key(rows[who]))
    return solution


def pick_sorted(saved):
    rows = sorted(saved["means"].items(), key=lambda row: row[1]["counter"]["chair_s"][0])
    low = saved["means"]["before"]["counter"]["recall"][0]
    return [who for who, m in rows if who != "before" and low - m["counter"]["recall"][0] <= .04][0]


def mixture(cut=lambda c, f, k: c[:k] + f[k:], swap=False, seeded=True):
    def solution(share):
        def pairs(seed):
            c, f = (trials.world_pairs(N, seed * seeded, habit=habit, captions=1.)
                    for habit in (world.Habit(), world.FLAWED))
            return cut(*((f, c) if swap else (c, f)), round(share * len(c)))
        return pairs
    return solution


def dpop(margin=lambda w, l: w - l - 5 * (-w).clamp(min=0)):
    return (lambda policy, reference: F.softplus(-.1
                                                 * margin(policy.chosen - reference.chosen,
                                                          policy.rejected - reference.rejected)))


def yes(controls=("no noise", "k = 0"), below=lambda c: c[2] < 0, kept=lambda r: r[2] >= 0, every=all):
    def solution(saved, base, who):
        found = [saved["differences"][base][f"{who} - {c}"]["counter"] for c in controls]
        return every(below(d["chair_s"]) and kept(d["recall"]) for d in found)
    return solution


def robust(second=-1, scale=lambda e: 1 - 2 * e, share=lambda e: e):
    def solution(m, e):
        e = share(e)
        return (-(1 - e) * F.logsigmoid(m) - second * e * F.logsigmoid(-m)) / scale(e)
    return solution


def next_review(pick=min, left=lambda n, done: [i for i in range(n) if i not in done]):
    def solution(evidence, done):
        some = left(len(evidence), done)
        return pick(some, key=lambda i: evidence[i]) if some else None
    return solution


def next_sorted(evidence, done):
    return next((i for _, i in sorted((e, i) for i, e in enumerate(evidence)) if i not in done), None)


def gain_left(share=lambda b, l, a: (b - a) / (b - l), quiet=.04):
    def solution(before, long, again):
        if before["recall"] - long["recall"] > quiet or long["chair_s"] >= before["chair_s"]: return None
        return share(before["chair_s"], long["chair_s"], again["chair_s"])
    return solution


def slope(log=math.log2, sign=1):
    def solution(points):
        x, y = [log(n) for n, _ in points], [v for _, v in points]
        mx, my = sum(x) / len(x), sum(y) / len(y)
        return sign * sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx)**2 for a in x)
    return solution


RIGHT = {
    "is_a_yes": [yes(), yes(below=lambda c: max(c) < 0, kept=lambda r: not r[2] < 0)],
    "robust": [robust(), lambda m, e: ((1 - e) * F.softplus(-m) - e * F.softplus(m)) / (1 - 2 * e)],
    "next_review": [next_review(), next_sorted],
    "gain_left": [gain_left(), gain_left(lambda b, l, a: 1 - (a - l) / (b - l))],
    "per_doubling": [slope(),
                     lambda points: float(np.polyfit(*np.array([(math.log2(n), v) for n, v in points]).T, 1)[0])],
    "in_turn": [gives(stage="both", stage1=dict(form="sft", num_train_epochs=1),
                      stage2=dict(form="dpo", num_train_epochs=1)),
                gives(stage1=dict(form="sft"), stage2=dict(form="dpo"), num_train_epochs=1)],
    "carried": [carried(), carried(clear=lambda d: not d[1] <= 0 <= d[2])],
    "pick_by_rule": [pick(), pick_sorted],
    "rising": [gives(**BOTH, noise_step=[300, 700], noise_draw="rising"),
               gives(form="released", noise_step=(300, 700), noise_draw="rising")],
    "same_words": [gives(**CODE | dict(own_tokens=False)),
                   gives(**{k: v for k, v in CODE.items() if k != "own_tokens"})],
    "mixture": [mixture(),
                mixture(lambda c, f, k: [a if i >= len(c) - k else b for i, (a, b) in enumerate(zip(c, f))])],
    "dpop": [dpop(), dpop(lambda w, l: torch.minimum(w, 6 * w) - l)]}

WRONG = [
    ("in_turn", gives(stage="1", form="sft"), "stage='both'"),
    ("in_turn", gives(stage="both"), "right answers alone"),
    ("in_turn", gives(stage="both", stage1=dict(form="sft")), "injected answers alone are form='dpo'"),
    ("in_turn", gives(stage1=dict(form="sft"), stage2=dict(form="dpo")), "for 4 in all"),
    ("in_turn", lambda: dict(stage="both"), "return two things"),
    ("in_turn", lambda: ([], {}), "function of the seed"),
    ("carried", carried(skip="nobody"), "leave out the untuned model"),
    ("carried", carried("before - {}"), "other way round"),
    ("carried", carried(default="typical"), "typical split"),
    ("carried", carried(clear=lambda d: d[1] > 0), "below zero is clear"),
    ("pick_by_rule", pick(enough=lambda m, least: True), "names little"),
    ("pick_by_rule", pick(key=lambda m: -m["recall"][0]), "fewest hallucinations"),
    ("pick_by_rule", pick(skip="nobody"), "no contestant"),
    ("pick_by_rule", pick(loss=.02), "middling"),
    ("rising", gives(**BOTH, noise_step=[300, 700], noise_draw="random"), "for each pair"),
    ("rising", gives(**BOTH, noise_step=500), "stays fixed"),
    ("rising", gives(**BOTH, noise_step=[700, 300], noise_draw="rising"), "[300, 700]"),
    ("same_words", gives(**CODE), "still true"),
    ("same_words", gives(**CODE | dict(own_tokens=False, form="paper")), "loss stays"),
    ("same_words", gives(**CODE | dict(own_tokens=False, noise_overflow="clamp")), "noise stays"),
    ("mixture", mixture(swap=True), "other way round"),
    ("mixture", mixture(lambda c, f, k: c[:k] + f), "as many pairs"),
    ("mixture", mixture(lambda c, f, k: c[:k] + f[:len(f) - k]), "twice"),
    ("mixture", mixture(seeded=False), "another seed"),
    ("mixture", lambda share: [], "function of the seed"),
    ("dpop", dpop(lambda w, l: w - l), "plain DPO"),
    ("dpop", dpop(lambda w, l: w - l + 5 * (-w).relu()), "taken away"),
    ("dpop", dpop(lambda w, l: w - l - (-w).relu()), "weight 5"),
    ("dpop", dpop(lambda w, l: w - l - 5 * w.abs()), "not penalised"),
    ("dpop", dpop(lambda w, l: w - l + 5 * w), "earns nothing"),
    ("is_a_yes", yes(("no noise",)), "against 'k = 0' includes zero"),
    ("is_a_yes", yes(below=lambda c: c[0] < 0), "includes zero"),
    ("is_a_yes", yes(below=lambda c: c[1] * c[2] > 0), "fewer is better"),
    ("is_a_yes", yes(kept=lambda r: True), "only says less"),
    ("robust", robust(1, lambda e: 1), "smoothed DPO"),
    ("robust", robust(scale=lambda e: 1), "divide by"),
    ("robust", robust(share=lambda e: 1 - e), "changed places"),
    ("next_review", next_review(max), "the most evidence"),
    ("next_review", lambda evidence, done: min(evidence), "not its evidence"),
    ("next_review", next_review(left=lambda n, done: range(n)), "looked at already"),
    ("gain_left", gain_left(lambda b, l, a: (a - l) / (b - l)), "share that was lost"),
    ("gain_left", gain_left(lambda b, l, a: l / a), "not scores"),
    ("gain_left", gain_left(quiet=1.), "silence"),
    ("per_doubling", slope(sign=-1), "the sign"),
    ("per_doubling", slope(math.log), "factor of e"),
    ("per_doubling", lambda points: points[-1][1] - points[0][1], "whole change")]


@pytest.mark.parametrize("name, solution", [(name, s) for name, found in RIGHT.items() for s in found])
def test_a_right_answer_is_accepted(name, solution):
    assert why(name, solution) is None


@pytest.mark.parametrize("name, solution, mistake", WRONG)
def test_a_wrong_answer_is_refused_and_its_mistake_named(name, solution, mistake):
    assert mistake in (why(name, solution) or "accepted")


def test_each_exercise_has_three_wrong_answers_and_two_right_ones():
    mine = {name for name in check.exercises() if check._ATTEMPTS[name].__module__ == "povid_nb.checks_labs"}
    assert set(RIGHT) == mine - {"pooled"}               # which has a file of its own
    for name, right in RIGHT.items():
        assert len(right) >= 2 and sum(wrong[0] == name for wrong in WRONG) >= 3
