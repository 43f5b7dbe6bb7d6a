"The checks of the lessons on learning accept right answers in several spellings, and name the mistake in wrong ones"
import math
import pytest, torch
import torch.nn.functional as F
from transformers import get_cosine_schedule_with_warmup
from povid_nb import check
from povid_nb.dpo import dpo_loss, ratios
from povid_nb.loss import povid_loss

check.exercises()


def why(name, solution): return check._why_not(solution, check._ATTEMPTS[name])


# ---- Right answers, written differently -----------------------------------------------------------------------------

def logps_by_loop(logits, ids, mask):
    total = torch.zeros(len(ids), dtype=torch.double)
    for row, t in mask.nonzero().tolist(): total[row] += F.log_softmax(logits[row, t - 1].double(), -1)[ids[row, t]]
    return total


def logps_by_cross_entropy(logits, ids, mask):
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return -torch.where(mask[:, 1:], losses, 0.).sum(-1)


def policy_by_probabilities(reference_logps, rewards, beta):
    raised = reference_logps.exp() * (rewards / beta - (rewards / beta).max()).exp()
    return (raised / raised.sum()).log()


def D(policy, reference, i): return policy[i] - reference[i]
def against_noise(logps): return logps._replace(rejected=logps.noise)
def both_down(p, r, beta):
    return -F.logsigmoid(beta * (D(p, r, 0) - D(p, r, 1))), -F.logsigmoid(beta * (D(p, r, 0) - D(p, r, 2)))


def rate_by_transformers(n, total, peak, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    return peak * get_cosine_schedule_with_warmup(optimizer, warmup, total).lr_lambdas[0](n)


def one_step(clear="last", step=True, nll=True, per_token=True, reduce=torch.mean, sign=1, number=True, swap=False):
    "The training step, or one of its usual mistakes"
    def training_step(vlm, batch, reference, optimizer, nll_weight=1.):
        if clear == "first": optimizer.zero_grad()
        rows = vlm.token_logps(batch)
        half = len(rows) // 2
        chosen, rejected = (torch.stack([t.sum() for t in part]) for part in (rows[:half], rows[half:]))
        if swap: chosen, rejected = rejected, chosen
        margin = chosen - reference.chosen - rejected + reference.rejected
        lengths = torch.tensor([len(t) if per_token else 1 for t in rows[:half]])
        loss = reduce(F.softplus(-.1 * margin) - (nll_weight * chosen / lengths if nll else 0))
        (sign * loss).backward()
        if step: optimizer.step()
        if clear == "last": optimizer.zero_grad()
        return loss.item() if number else loss
    return training_step


RIGHT = {
    "bradley_terry": [lambda w, l: -F.logsigmoid(w - l), lambda w, l: F.softplus(l - w),
                      lambda w, l: torch.logaddexp(w, l) - w],
    "best_policy": [lambda ref, r, beta: (ref + r / beta).log_softmax(-1), policy_by_probabilities],
    "masked_logps": [logps_by_loop, logps_by_cross_entropy],
    "dpo": [lambda p, r, beta: -F.logsigmoid(beta * (p.chosen - r.chosen - p.rejected + r.rejected)),
            lambda p, r, beta: F.softplus(beta * (ratios(p, r).rejected - ratios(p, r).chosen))],
    "moved": [lambda c, n, mask: (n.argmax(-1), mask & (n.argmax(-1) != c.argmax(-1))),
              lambda c, n, mask: (n.max(-1).indices, (n.softmax(-1).argmax(-1) - c.argmax(-1)).abs().gt(0) * mask)],
    "povid_paper": [lambda p, r, a, b, c: -F.logsigmoid(a * D(p, r, 0) - (b * D(p, r, 1) + c * D(p, r, 2))),
                    lambda p, r, a, b, c: F.softplus(b * D(p, r, 1) + c * D(p, r, 2) - a * D(p, r, 0))],
    "povid_released": [lambda p, r, beta: (dpo_loss(p, r, beta).losses
                                           + dpo_loss(against_noise(p), against_noise(r), beta).losses) / 2,
                       lambda p, r, beta: povid_loss(p, r, "released", beta).losses],
    "nll_term": [lambda logps, n: -logps / n, lambda logps, n: logps.neg().div(n)],
    "steps": [lambda pairs, epochs, batch, accumulation=1, processes=1:
                  epochs * -(-(-(-pairs // (batch * processes))) // accumulation),
              lambda pairs, epochs, batch, accumulation=1, processes=1:
                  epochs * math.ceil(math.ceil(pairs / batch / processes) / accumulation)],
    "learning_rate": [rate_by_transformers,
                      lambda n, total, peak, warmup: peak * n / warmup if n < warmup
                          else peak * math.cos(math.pi / 2 * (n - warmup) / (total - warmup))**2],
    "training_step": [one_step(), one_step(clear="first")],
}


@pytest.mark.parametrize("name, number", [(name, i) for name, all_of in RIGHT.items() for i in range(len(all_of))])
def test_right_answers_pass(name, number):
    assert why(name, RIGHT[name][number]) is None


# ---- Typical wrong answers, and a word of the message that names the mistake ----------------------------------------

def gathered(logits, ids): return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]


WRONG = [
    ("bradley_terry", lambda w, l: (w - l).sigmoid(), "this is the probability"),
    ("bradley_terry", lambda w, l: -(w - l).sigmoid().log(), "F.logsigmoid"),
    ("bradley_terry", lambda w, l: -F.logsigmoid(l - w), "swapped"),
    ("bradley_terry", lambda w, l: F.logsigmoid(w - l), "minus sign"),
    ("bradley_terry", lambda w, l: -F.logsigmoid(w - l).mean(), "Do not average"),
    ("best_policy", lambda ref, r, beta: ref + r / beta, "probabilities sum to"),
    ("best_policy", lambda ref, r, beta: (ref + r * beta).log_softmax(-1), "divide the reward by beta"),
    ("best_policy", lambda ref, r, beta: (r / beta).log_softmax(-1), "the reference is missing"),
    ("masked_logps", lambda x, ids, mask: gathered(x, ids).masked_fill(~mask, 0).sum(-1), "the shift is missing"),
    ("masked_logps", lambda x, ids, mask: gathered(x[:, :-1], ids[:, 1:]).masked_fill(~mask[:, :-1], 0).sum(-1),
     "the mask is not shifted"),
    ("masked_logps", lambda x, ids, mask: gathered(x[:, :-1], ids[:, 1:]).sum(-1), "the mask is not used"),
    ("masked_logps", lambda x, ids, mask: logps_by_loop(x, ids, mask) / mask.sum(-1), "this is the mean"),
    ("masked_logps", lambda x, ids, mask: (gathered(x[:, :-1], ids[:, 1:]) * mask[:, 1:]).sum(-1), "not a number"),
    ("masked_logps",
     lambda x, ids, mask: x[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].masked_fill(~mask[:, 1:], 0).sum(-1),
     "sums of logits"),
    ("dpo", lambda p, r, beta: -F.logsigmoid(beta * (p.chosen - p.rejected)), "the reference is missing"),
    ("dpo", lambda p, r, beta: -F.logsigmoid(p.chosen - r.chosen - p.rejected + r.rejected), "beta is missing"),
    ("dpo", lambda p, r, beta: -F.logsigmoid(beta * (p.rejected - r.rejected - p.chosen + r.chosen)), "swapped"),
    ("dpo", lambda p, r, beta: -(beta * (p.chosen - r.chosen - p.rejected + r.rejected)).sigmoid().log(), "infinity"),
    ("dpo", lambda p, r, beta: -F.logsigmoid(beta * (p.chosen - r.chosen - p.rejected + r.rejected)).mean(),
     "Do not average"),
    ("moved", lambda c, n, mask: (c.argmax(-1), mask & (n.argmax(-1) != c.argmax(-1))),
     "y_n comes from the noisy logits"),
    ("moved", lambda c, n, mask: (n.argmax(-1), n.argmax(-1) != c.argmax(-1)), "the mask is missing"),
    ("moved", lambda c, n, mask: (n.argmax(-1), mask & (n.argmax(-1) == c.argmax(-1))), "the other way round"),
    ("moved", lambda c, n, mask: (n.argmax(-1), mask), "also those that noise did not change"),
    ("moved", lambda c, n, mask: (n.argmax(1), mask), "argmax(-1)"),
    ("povid_paper", lambda p, r, a, b, c: -F.logsigmoid(a * D(p, r, 0) - b * D(p, r, 1) + c * D(p, r, 2)),
     "mind the brackets"),
    ("povid_paper", lambda p, r, a, b, c: -F.logsigmoid(a * D(p, r, 0) - b * D(p, r, 1)), "the noise term is missing"),
    ("povid_paper", lambda p, r, a, b, c: -F.logsigmoid(a * (D(p, r, 0) - D(p, r, 1) - D(p, r, 2))),
     "alpha is used for all three"),
    ("povid_paper", lambda p, r, a, b, c: -F.logsigmoid(a * p.chosen - b * p.rejected - c * p.noise),
     "the reference is missing"),
    ("povid_paper",
     lambda p, r, a, b, c:
     -(F.logsigmoid(a * D(p, r, 0) - b * D(p, r, 1)) + F.logsigmoid(a * D(p, r, 0) - c * D(p, r, 2))) / 2,
     "two sigmoids"),
    ("povid_released", lambda p, r, beta: sum(both_down(p, r, beta)), "their mean"),
    ("povid_released", lambda p, r, beta: both_down(p, r, beta)[0], "this is DPO"),
    ("povid_released", lambda p, r, beta: povid_loss(p, r, "paper", beta).losses, "one sigmoid"),
    ("povid_released", lambda p, r, beta: sum(both_down(p, r, 1.)) / 2, "beta is missing"),
    ("nll_term", lambda logps, n: logps / n, "minus sign"),
    ("nll_term", lambda logps, n: -logps, "number of tokens"),
    ("nll_term", lambda logps, n: -logps / n.sum(), "its own number"),
    ("nll_term", lambda logps, n: (-logps / n).mean(), "Do not average"),
    ("steps", lambda pairs, epochs, batch, a=1, p=1: epochs * (pairs // (batch * p) // a), "Round up"),
    ("steps", lambda pairs, epochs, batch, a=1, p=1: -(-pairs * epochs // (batch * p * a)), "in each epoch"),
    ("steps", lambda pairs, epochs, batch, a=1, p=1: epochs * -(-pairs // batch), "two to a step"),
    ("learning_rate", lambda n, total, peak, warmup: peak * (1 + math.cos(math.pi * n / total)) / 2,
     "where the warm-up ends"),
    ("learning_rate",
     lambda n, total, peak, warmup: peak * n / warmup if n < warmup else peak * (1 - (n - warmup) / (total - warmup)),
     "straight line"),
    ("learning_rate", lambda n, total, peak, warmup: peak * n / warmup if n < warmup
        else peak * (1 + math.cos(2 * math.pi * (n - warmup) / (total - warmup))) / 2, "rises again"),
    ("learning_rate",
     lambda n, total, peak, warmup: peak * (1 + math.cos(math.pi * (n - warmup) / (total - warmup))) / 2,
     "step 0 of 20"),
    ("training_step", one_step(clear=None), "zero_grad"),
    ("training_step", one_step(step=False), "optimizer.step()"),
    ("training_step", one_step(nll=False), "the NLL term is missing"),
    ("training_step", one_step(per_token=False), "per token"),
    ("training_step", one_step(reduce=torch.sum), "the sum over pairs"),
    ("training_step", one_step(sign=-1), "uphill"),
    ("training_step", one_step(number=False), "as a number"),
    ("training_step", one_step(swap=True), "the loss of step 1"),
]


@pytest.mark.parametrize("name, solution, words", WRONG, ids=[f"{name}: {words}" for name, _, words in WRONG])
def test_wrong_answers_are_refused_by_name(name, solution, words):
    assert words in (why(name, solution) or "")


@pytest.mark.parametrize("name", RIGHT)
def test_each_exercise_has_enough_cases(name):
    assert len(RIGHT[name]) >= 2 and sum(wrong == name for wrong, *_ in WRONG) >= 3
    assert why(name, lambda *given: None)
