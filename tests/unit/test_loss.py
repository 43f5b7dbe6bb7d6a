"The losses against the same formulas in plain Python, one pair at a time in double precision, and their properties"
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from povid_nb import dpo, loss, neighbours
from povid_nb.dpo import Logps

nats = st.floats(-400, 0, allow_nan=False)
pairs = st.lists(st.tuples(*[nats] * 6), min_size=1, max_size=5)
fast = settings(max_examples=60, deadline=None)


def both(rows):
    "Policy and reference from rows of six numbers"
    columns = torch.tensor(rows, dtype=torch.double).T
    return Logps(*columns[:3]), Logps(*columns[3:])


def softplus(z):
    return z + math.log1p(math.exp(-z)) if z > 0 else math.log1p(math.exp(z))


def by_hand(row, form, beta=.1, smooth=0., alpha=.1, beta1=.05, beta2=.05):
    w, l, n = (p - r for p, r in zip(row[:3], row[3:]))
    h = w - l
    return {"sigmoid": (1 - smooth) * softplus(-beta * h) + smooth * softplus(beta * h),
            "robust": ((1 - smooth) * softplus(-beta * h) - smooth * softplus(beta * h)) / (1 - 2 * smooth),
            "ipo": (h - 1 / (2 * beta))**2, "hinge": max(0, 1 - beta * h),
            "paper": softplus(-(alpha * w - beta1 * l - beta2 * n)),
            "released": softplus(-beta * h) / 2 + softplus(-beta * (w - n)) / 2}[form]


@fast
@given(pairs, st.sampled_from(["sigmoid", "robust", "ipo", "hinge"]), st.floats(.01, 2), st.floats(0, .45))
def test_dpo_forms(rows, form, beta, smooth):
    came = dpo.dpo_loss(*both(rows), beta, form, smooth).losses
    assert came.tolist() == pytest.approx([by_hand(row, form, beta, smooth) for row in rows], rel=1e-9, abs=1e-9)


@fast
@given(pairs, st.floats(.01, 1), st.floats(0, 1), st.floats(0, 1))
def test_paper_form(rows, alpha, beta1, beta2):
    came = loss.povid_loss(*both(rows), "paper", alpha=alpha, beta1=beta1, beta2=beta2).losses
    assert came.tolist() == pytest.approx([by_hand(row, "paper", alpha=alpha, beta1=beta1, beta2=beta2)
                                           for row in rows], rel=1e-9, abs=1e-9)


@fast
@given(pairs, st.floats(.01, 1))
def test_released_form_is_its_formula_and_bounds_the_papers_from_above(rows, beta):
    released = loss.povid_loss(*both(rows), "released", beta).losses
    assert released.tolist() == pytest.approx([by_hand(row, "released", beta) for row in rows], rel=1e-9, abs=1e-9)
    assert (released >= loss.povid_loss(*both(rows), "paper", beta).losses - 1e-9).all()


@fast
@given(pairs)
def test_equal_policies_give_log_two(rows):
    policy, _ = both(rows)
    for form in ("paper", "released"):
        assert loss.povid_loss(policy, policy, form).losses.tolist() == pytest.approx([math.log(2)] * len(rows))
    assert dpo.dpo_loss(policy, policy).losses.tolist() == pytest.approx([math.log(2)] * len(rows))
    mdpo = neighbours.mdpo_loss(*[policy._replace(chosen_noisy=policy.chosen)] * 2).losses
    assert mdpo.tolist() == pytest.approx([3 * math.log(2)] * len(rows))


@fast
@given(pairs)
def test_the_push_is_up_for_the_right_answer_and_down_for_both_lies(rows):
    policy, reference = (Logps(*[v.clone().requires_grad_() for v in p[:3]]) for p in both(rows))
    for form in ("paper", "released"):
        up, *down = torch.autograd.grad(loss.povid_loss(policy, reference, form).losses.sum(), policy[:3])
        assert (up <= 0).all() and all((d >= 0).all() for d in down)
        # what is added to all three answers alike must not matter where the weights sum to zero
        assert torch.allclose(up + sum(down), torch.zeros_like(up), atol=1e-12)


def test_rewards_have_the_weights_of_their_form_and_no_gradient():
    policy, reference = Logps(*torch.tensor([[-9.], [-10.], [-11.]],
                                            requires_grad=True)), Logps(*torch.tensor([[-10.], [-9.], [-12.]]))
    for form, expected in (("released", (.1, -.1, .1)), ("paper", (.1, -.05, .05))):
        out = loss.povid_loss(policy, reference, form)
        assert [r.item() for r in out.rewards[:3]] == pytest.approx(expected)
        assert not any(r.requires_grad for r in out.rewards[:3])
    assert dpo.dpo_loss(policy, reference).rewards.noise.item() == 0


def test_chosen_masked_replaces_the_chosen_answer_in_the_noise_term_only():
    policy = Logps(*torch.tensor([[-9.], [-10.], [-3.], [-2.]]))
    reference = Logps(*torch.tensor([[-10.], [-9.], [-4.], [-5.]]))
    came = loss.povid_loss(policy, reference, "released").losses.item()
    assert came == pytest.approx(softplus(-.1 * (1 + 1)) / 2 + softplus(-.1 * (3 - 1)) / 2)


def test_far_margins_stay_finite_with_finite_gradients():
    for value in (-5000., 5000.):
        margin = torch.tensor([value], requires_grad=True)
        for form in ("sigmoid", "robust", "hinge"):
            out = dpo.preference_loss(margin, .1, form)
            assert out.isfinite().all() and torch.autograd.grad(out.sum(), margin)[0].isfinite().all()


def test_masked_positions_may_hold_anything():
    tokens = torch.tensor([[-1., -2., -torch.inf, torch.nan]], requires_grad=True)
    mask = torch.tensor([[True, True, False, False]])
    total = dpo.summed(tokens, mask)
    assert total.item() == -3
    total.sum().backward()
    assert tokens.grad.tolist() == [[1, 1, 0, 0]]


def test_which_positions_of_noise_count():
    mask = torch.tensor([[True, True, True, False]])
    noise, chosen, clean = (torch.tensor([ids]) for ids in ([1, 2, 3, 9], [1, 5, 6, 7], [1, 2, 6, 8]))
    found = {rule: loss.noise_mask(rule, mask, noise, chosen, clean)[0].tolist()
             for rule in ("all", "differ", "moved")}
    assert found == {"all": [True, True, True, False], "differ": [False, True, True, False],
                     "moved": [False, False, True, False]}


def test_where_nothing_counts_the_noise_term_is_log_two_and_pushes_nothing():
    tokens = torch.randn(2, 4, requires_grad=True)
    nothing, every = torch.zeros(2, 4, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)
    policy = Logps(dpo.summed(tokens, every), torch.zeros(2), dpo.summed(tokens, nothing), dpo.summed(tokens, nothing))
    reference = Logps(*[torch.zeros(2)] * 4)
    released, plain = loss.povid_loss(policy, reference, "released").losses, dpo.dpo_loss(policy, reference).losses
    assert torch.allclose(released, plain / 2 + math.log(2) / 2)


@fast
@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_unchanged_tokens_are_a_common_subsequence(one, other):
    changed_one, changed_other = neighbours.changed_tokens(one, other)
    assert [t for t, c in zip(one, changed_one) if not c] == [t for t, c in zip(other, changed_other) if not c]
    assert not any(neighbours.changed_tokens(one, one)[0])


@fast
@given(st.lists(st.tuples(st.floats(-9, 0), st.booleans()), min_size=1, max_size=8), st.floats(1, 9))
def test_ddpo_is_a_weighted_mean(tokens, gamma):
    logps, changed = zip(*tokens)
    weights = [gamma if c else 1 for c in changed]
    came = neighbours.ddpo_logps(torch.tensor([logps]).double(), torch.ones(1, len(tokens), dtype=torch.bool),
                                 torch.tensor([changed]), gamma)
    assert came.item() == pytest.approx(sum(w * l for w, l in zip(weights, logps)) / sum(weights), abs=1e-6)


def test_tpo_against_its_formula():
    logps, clean, noisy = torch.tensor([[-1., -2.]]), torch.tensor([[3., 1.]]), torch.tensor([[1., 1.]])
    s = 1 / (1 + math.exp(-2))
    every = torch.ones(1, 2, dtype=torch.bool)
    assert neighbours.tpo_logps(logps, every, clean, noisy).item() == pytest.approx(-3 + math.log(.5 + s))
    assert neighbours.tpo_logps(logps, every, clean, noisy,
                                chosen=False).item() == pytest.approx(-3 + math.log(1.5 - s))


@pytest.mark.parametrize("call, words", [
    (lambda: dpo.preference_loss(torch.zeros(1), loss_type="sigmod"), "sigmoid, robust, ipo, hinge"),
    (lambda: dpo.preference_loss(torch.zeros(1), label_smoothing=.5), "from 0 to below 0.5"),
    (lambda: loss.povid_loss(Logps(*torch.zeros(3, 1)), Logps(*torch.zeros(3, 1)), "code"), "'paper' or 'released'"),
    (lambda: loss.noise_mask("some", *[torch.zeros(1, 1)] * 3), "all, differ, moved")])
def test_what_is_not_known_is_said_in_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error: call()
    assert "\n" not in str(error.value)
