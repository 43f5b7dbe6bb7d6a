"The checks of lesson 11 accept right answers in several spellings, and name the mistake in wrong ones"
from math import comb
import pytest
from scipy.stats import binomtest
from povid_nb import check

check.exercises()


def why(name, solution): return check._why_not(solution, check._ATTEMPTS[name])


def gain(part=lambda b, a, s: 100 * s * (a - b) / b, over=lambda parts: sum(parts) / len(parts)):
    return lambda before, after, better: over([part(*row) for row in zip(before, after, better)])


def signs(gains, ties=0):
    up, down = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    zeros = len(gains) - up - down
    return (up + zeros, down) if ties > 0 else (up, down + zeros) if ties < 0 else (up, down)


def tails(gains, ties=0, both=2, tail=lambda k, n: sum(comb(n, i) for i in range(k, n + 1)), most=1.):
    up, down = signs(gains, ties)
    return min(most, both * tail(max(up, down), up + down) / 2 ** (up + down))


def cost(named=lambda p, t: p >= t, over=lambda costs: sum(costs) / len(costs), swap=False, unit=False):
    def mean_cost(p_yes, present, threshold, cost_false, cost_missed):
        if swap: cost_false, cost_missed = cost_missed, cost_false
        if unit: cost_false = cost_missed = 1
        return over([cost_false * (named(p, threshold) and not there)
                     + cost_missed * (there and not named(p, threshold))
                     for p, there in zip(p_yes, present)])
    return mean_cost


def mean_cost_by_counts(p_yes, present, threshold, cost_false, cost_missed):
    false = [p for p, there in zip(p_yes, present) if not there and not p < threshold]
    missed = [p for p, there in zip(p_yes, present) if there and p < threshold]
    return (len(false) * cost_false + len(missed) * cost_missed) / len(p_yes)


RIGHT = {
    "average_gain": [gain(),
                     lambda before, after, better: 100
                     * sum(s * (a / b - 1) for a, b, s in zip(after, before, better)) / len(better)],
    "sign_test": [lambda gains: binomtest(signs(gains)[0], sum(signs(gains))).pvalue, tails],
    "mean_cost": [cost(), mean_cost_by_counts],
    "threshold_for": [lambda f, m: f / (f + m), lambda f, m: 1 / (1 + m / f)]}

WRONG = [
    ("average_gain", gain(lambda b, a, s: 100 * (a - b) / b), "sign of each measure"),
    ("average_gain", gain(lambda b, a, s: s * (a - b) / b), "in percent"),
    ("average_gain", gain(lambda b, a, s: s * (a - b)), "these are points"),
    ("average_gain", gain(lambda b, a, s: 100 * s * (a - b) / a), "value before"),
    ("average_gain", gain(over=sum), "this is the sum"),
    ("average_gain", gain(lambda b, a, s: 100 * abs(a - b) / b), "with a minus"),
    ("sign_test", lambda gains: tails(gains, both=1), "one side only"),
    ("sign_test", lambda gains: tails(gains, tail=lambda k, n: comb(n, k)), "more uneven"),
    ("sign_test", lambda gains: tails(gains, both=1, tail=lambda k, n: comb(n, k)),
     "at least as uneven, on both sides"),
    ("sign_test", lambda gains: tails(gains, ties=-1), "counted as a fall"),
    ("sign_test", lambda gains: tails(gains, ties=1), "counted as a rise"),
    ("sign_test", lambda gains: tails(gains, most=2.), "counts once"),
    ("mean_cost", cost(over=sum), "this is the sum"),
    ("mean_cost", cost(unit=True), "each mistake counts 1"),
    ("mean_cost", cost(swap=True), "exchanged"),
    ("mean_cost", cost(named=lambda p, t: p > t), "at the threshold is named"),
    ("threshold_for", lambda f, m: m / (f + m), "the other way round"),
    ("threshold_for", lambda f, m: f / m, "solve for the p"),
    ("threshold_for", lambda f, m: m / f, "ratio of costs")]


@pytest.mark.parametrize("name, solution", [(name, s) for name, found in RIGHT.items() for s in found])
def test_a_right_answer_is_accepted(name, solution):
    assert why(name, solution) is None


@pytest.mark.parametrize("name, solution, mistake", WRONG)
def test_a_wrong_answer_is_refused_and_its_mistake_named(name, solution, mistake):
    assert mistake in (why(name, solution) or "accepted")


def test_each_exercise_has_three_wrong_answers_and_two_right_ones():
    for name, right in RIGHT.items():
        assert len(right) >= 2 and sum(wrong[0] == name for wrong in WRONG) >= 3
