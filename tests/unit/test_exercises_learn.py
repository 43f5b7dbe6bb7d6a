"The checks of the lessons on learning accept right answers in several spellings, and name the mistake in wrong ones"
import pytest, torch
import torch.nn.functional as F
from povid_nb import check
from povid_nb.dpo import ratios

check.exercises()


def why(name, solution): return check._why_not(solution, check._ATTEMPTS[name])


# ---- Right answers, written differently --------------------------------------------------------------------------------

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


RIGHT = {
    "bradley_terry": [lambda w, l: -F.logsigmoid(w - l), lambda w, l: F.softplus(l - w),
                      lambda w, l: torch.logaddexp(w, l) - w],
    "best_policy": [lambda ref, r, beta: (ref + r / beta).log_softmax(-1), policy_by_probabilities],
    "masked_logps": [logps_by_loop, logps_by_cross_entropy],
    "dpo": [lambda p, r, beta: -F.logsigmoid(beta * (p.chosen - r.chosen - p.rejected + r.rejected)),
            lambda p, r, beta: F.softplus(beta * (ratios(p, r).rejected - ratios(p, r).chosen))],
}


@pytest.mark.parametrize("name, number", [(name, i) for name, all_of in RIGHT.items() for i in range(len(all_of))])
def test_right_answers_pass(name, number):
    assert why(name, RIGHT[name][number]) is None


# ---- Typical wrong answers, and a word of the message that names the mistake ------------------------------------------------

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
    ("masked_logps", lambda x, ids, mask: gathered(x[:, :-1], ids[:, 1:]).masked_fill(~mask[:, :-1], 0).sum(-1), "the mask is not shifted"),
    ("masked_logps", lambda x, ids, mask: gathered(x[:, :-1], ids[:, 1:]).sum(-1), "the mask is not used"),
    ("masked_logps", lambda x, ids, mask: logps_by_loop(x, ids, mask) / mask.sum(-1), "this is the mean"),
    ("masked_logps", lambda x, ids, mask: (gathered(x[:, :-1], ids[:, 1:]) * mask[:, 1:]).sum(-1), "not a number"),
    ("masked_logps", lambda x, ids, mask: x[:, :-1].gather(-1, ids[:, 1:, None])[..., 0].masked_fill(~mask[:, 1:], 0).sum(-1), "sums of logits"),
    ("dpo", lambda p, r, beta: -F.logsigmoid(beta * (p.chosen - p.rejected)), "the reference is missing"),
    ("dpo", lambda p, r, beta: -F.logsigmoid(p.chosen - r.chosen - p.rejected + r.rejected), "beta is missing"),
    ("dpo", lambda p, r, beta: -F.logsigmoid(beta * (p.rejected - r.rejected - p.chosen + r.chosen)), "swapped"),
    ("dpo", lambda p, r, beta: -(beta * (p.chosen - r.chosen - p.rejected + r.rejected)).sigmoid().log(), "infinity"),
    ("dpo", lambda p, r, beta: -F.logsigmoid(beta * (p.chosen - r.chosen - p.rejected + r.rejected)).mean(), "Do not average"),
]


@pytest.mark.parametrize("name, solution, words", WRONG, ids=[f"{name}: {words}" for name, _, words in WRONG])
def test_wrong_answers_are_refused_by_name(name, solution, words):
    assert words in (why(name, solution) or "")


@pytest.mark.parametrize("name", RIGHT)
def test_each_exercise_has_enough_cases(name):
    assert len(RIGHT[name]) >= 2 and sum(wrong == name for wrong, *_ in WRONG) >= 3
    assert why(name, lambda *given: None)
