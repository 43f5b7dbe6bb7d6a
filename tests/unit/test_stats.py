"""stats: intervals and paired tests against scipy and exact counts, and answers that are collected once."""
import copy, json, os, subprocess, sys
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from povid_nb import check
from povid_nb.stats import Interval, Scores, Tally, _resamples, bootstrap, paired, ratio, side_by_side

scipy_stats = pytest.importorskip("scipy.stats")
MEAN = {"mean": lambda s: ratio(s.x, s.n)}


def mean_of(x, **how): return bootstrap({"x": x, "n": np.ones(len(x))}, MEAN, **how)["mean"]


def test_interval_of_a_mean_agrees_with_scipy():
    x = np.random.default_rng(0).gamma(2, size=200)
    ours = mean_of(x, draws=8000)
    theirs = scipy_stats.bootstrap((x,), np.mean, n_resamples=8000, method="percentile", rng=1).confidence_interval
    assert ours.value == pytest.approx(x.mean())
    assert ours[1:] == pytest.approx(tuple(theirs), abs=.02*x.std())


def test_interval_of_a_ratio_agrees_with_scipy():
    rng = np.random.default_rng(1)
    below = rng.integers(1, 12, 150)
    above = rng.binomial(below, .2)
    ours = bootstrap({"above": above, "below": below}, {"r": lambda s: ratio(s.above, s.below)}, draws=8000)["r"]
    theirs = scipy_stats.bootstrap((above, below), lambda a, b: a.sum()/b.sum(), paired=True, vectorized=False,
                                   n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert ours.value == above.sum()/below.sum()
    assert ours[1:] == pytest.approx(tuple(theirs), abs=.006)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for i in range(300):
        _, low, high = mean_of(rng.random(120) < .3, draws=400, seed=i)
        hits += low <= .3 <= high
    assert .91 < hits/300 < .985


def test_groups_are_drawn_whole():
    x = np.repeat(np.random.default_rng(3).random(40), 5)
    alone, whole = mean_of(x), mean_of(x, groups=np.repeat(np.arange(40), 5))
    assert whole.value == pytest.approx(alone.value)
    assert (whole.high - whole.low)/(alone.high - alone.low) == pytest.approx(5**.5, rel=.1)


@given(n=st.integers(1, 30), draws=st.integers(1, 230), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_each_resample_holds_n_items(n, draws, seed):
    counts = np.concatenate(list(_resamples(n, draws, seed)))
    assert counts.shape == (draws, n) and (counts.sum(1) == n).all() and (counts >= 0).all()


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_same_seed_same_interval_and_the_value_lies_in_the_range_of_the_data(x, seed):
    a, b = mean_of(x, draws=200, seed=seed), mean_of(x, draws=200, seed=seed)
    assert a == b and a.low <= a.high and min(x) - 1e-9 <= a.low and a.high <= max(x) + 1e-9


def test_paired_p_value_agrees_with_scipy():
    rng = np.random.default_rng(4)
    a, one = rng.random(60), np.ones(60)
    b = a + rng.normal(.03, .1, 60)
    ours = paired({"x": a, "n": one}, {"x": b, "n": one}, MEAN, draws=20000)["mean"]
    theirs = scipy_stats.permutation_test((b, a), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples",
                                          vectorized=True, n_resamples=20000, rng=5)
    assert ours.difference == pytest.approx((b - a).mean())
    assert ours.p == pytest.approx(theirs.pvalue, abs=.012)


def test_paired_p_value_of_yes_and_no_is_mcnemars():
    rng = np.random.default_rng(5)
    a = rng.random(300) < .4
    b = np.where(rng.random(300) < .12, ~a, a)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    exact = scipy_stats.binomtest(only_a, only_a + only_b).pvalue
    one = np.ones(300)
    assert paired({"x": a, "n": one}, {"x": b, "n": one}, MEAN, draws=20000)["mean"].p == pytest.approx(exact,
        abs=.012)


def test_equal_models_do_not_differ_and_a_clear_gain_does():
    x, one = np.arange(50.), np.ones(50)
    assert paired({"x": x, "n": one}, {"x": x, "n": one}, MEAN)["mean"] == (0, 0, 0, 1)
    d = paired({"x": x, "n": one}, {"x": x + 1, "n": one}, MEAN, draws=2000)["mean"]
    assert (d.difference, d.low, d.high) == pytest.approx((1, 1, 1)) and d.p == pytest.approx(1/2001)


def test_paired_refuses_different_items():
    with pytest.raises(ValueError, match="50 items against 49"):
        paired({"x": np.ones(50), "n": np.ones(50)}, {"x": np.ones(49), "n": np.ones(49)}, MEAN)


def test_no_items_is_an_error_and_nothing_over_nothing_is_zero():
    with pytest.raises(ValueError, match="no items"): bootstrap({"x": [], "n": []}, MEAN)
    assert ratio(0, 0) == 0 and ratio([1, 2], [2, 0]).tolist() == [.5, 0]


def test_scores_write_values_intervals_protocol_and_versions():
    s = Scores("b", {"x": Interval(.5, .4, .6)}, 7, {"prompt": "P?"})
    d = json.loads(s.to_json())
    assert (d["x"], d["n"], d["intervals"]["x"], d["protocol"]["prompt"]) == (.5, 7, [.4, .6], "P?")
    assert d["protocol"]["versions"]["numpy"] == np.__version__
    assert "0.500 | 0.400 to 0.600" in s.table() and "prompt: P?" in s.table()
    assert side_by_side({"base": s, "new": s}).count("0.500 (0.400-0.600)") == 2


def test_stats_needs_no_torch():
    code = 'import sys, povid_nb.stats, povid_nb.chair, povid_nb.pope; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_tally_is_compared_by_item_whatever_the_order():
    rng = np.random.default_rng(6)
    x, y, ids = rng.random(40), rng.random(40), [f"q{i}" for i in range(40)]
    tally = lambda ids, x: Tally(bench="b", ids=list(ids), columns={"x": list(x), "n": [1]*len(x)}, measures=MEAN)
    mixed = rng.permutation(40)
    d = tally(ids, x).compare(tally([ids[i] for i in mixed], y[mixed]))["mean"]
    assert d == tally(ids, x).compare(tally(ids, y))["mean"] and d.difference == pytest.approx(y.mean() - x.mean())
    # columns in another order
    other = Tally(bench="b", ids=ids, columns={"n": [1]*40, "x": list(y)}, measures=MEAN)
    assert tally(ids, x).compare(other)["mean"] == d
    with pytest.raises(ValueError, match="40 items against 40, and only one side has new"):
        tally(ids, x).compare(tally([*ids[1:], "new"], y))
    with pytest.raises(ValueError, match="40 items against 39"): tally(ids, x).compare(tally(ids[1:], y[1:]))
    with pytest.raises(ValueError, match="1 of 3 items occur twice, such as a"): tally(["a", "b", "a"], x[:3])
    odd = Tally(bench="b", ids=ids, columns={"n": [1]*40, "z": list(y)}, measures=MEAN)
    with pytest.raises(ValueError, match="same columns for both models; only one has x, z"): tally(ids, x).compare(odd)


def test_measures_are_attributes_and_nothing_else_is():
    t = Tally(bench="b", ids=[1, 2], columns={"x": [1, 2], "n": [1, 1]}, measures=MEAN)
    assert t.mean == 1.5
    assert t.n == 2
    assert str(t) == "mean 1.5  n 2"
    assert t.scores(prompt="?").protocol == {"prompt": "?"}
    with pytest.raises(AttributeError, match="Tally has no attribute 'median'"): t.median
    assert copy.copy(t).mean == 1.5
