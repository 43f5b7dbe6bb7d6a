"""The check of the lab about other models accepts right answers in several spellings, and names the mistake in
wrong ones"""
import math

import pytest

from povid_nb import check

check.exercises()


def why(solution): return check._why_not(solution, check._ATTEMPTS["pooled"])


def pooled(weight=lambda h: 1 / h**2, half=lambda w: 1 / math.sqrt(sum(w))):
    def solution(experiments):
        halves = [(high - low) / 2 for _, low, high in experiments]
        weights = [weight(h) for h in halves]
        mean = sum(w * e[0] for w, e in zip(weights, experiments)) / sum(weights)
        width = half([1 / h**2 for h in halves])
        return mean, mean - width, mean + width
    return solution


def by_errors(experiments):
    errors = [(high - low) / 3.92 for _, low, high in experiments]
    weights = [e**-2 / sum(f**-2 for f in errors) for e in errors]
    mean = sum(w * m for w, (m, *_) in zip(weights, experiments))
    error = sum((w * e)**2 for w, e in zip(weights, errors))**.5
    return [mean, mean - 1.96 * error, mean + 1.96 * error]


@pytest.mark.parametrize("solution", [pooled(), by_errors], ids=["halves", "errors"])
def test_right_answers_pass(solution): assert why(solution) is None


@pytest.mark.parametrize("solution, reason", [
    (pooled(weight=lambda h: 1.), "all experiments count the same"),
    (pooled(weight=lambda h: 1 / h), "one over the width"),
    (pooled(weight=lambda h: h**2), "the less sure experiment counts more"),
    (pooled(half=lambda w: math.sqrt(len(w) / sum(w))), "as wide as before"),
    (pooled(half=lambda w: 1 / math.sqrt(sum(w)) / math.sqrt(len(w))), "square root"),
    (lambda experiments: [sum(c) / len(experiments) for c in zip(*experiments)], "as wide as before"),
    (lambda experiments: sum(e[0] for e in experiments), "raised TypeError"),
], ids=["equal", "width", "reverse", "mean-width", "too-narrow", "columns", "number"])
def test_the_mistake_is_named(solution, reason): assert reason in why(solution)
