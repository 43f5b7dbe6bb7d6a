"The exercises of 01_fault and 02_measure: mistakes are refused and named, right answers pass however they are written"
import math, re
import numpy as np
import pytest
from povid_nb import check, world


def verdict(name, solution):
    "What the check says of a solution, or nothing where it passes"
    check.exercises()
    return check._why_not(solution, check._ATTEMPTS[name]) or ""


# ---- Right answers, each written in two ways ------------------------------------------------------------------------

def chair_s(named, truths):
    return sum(any(kind not in there for kind in kinds) for kinds, there in zip(named, truths)) / len(named)


def chair_s_with_sets(named, truths):
    return float(np.mean([bool(set(kinds) - set(there)) for kinds, there in zip(named, truths)]))


def chair_i(named, truths):
    wrong = sum(kind not in there for kinds, there in zip(named, truths) for kind in kinds)
    return wrong / max(1, sum(map(len, named)))


def chair_i_in_a_loop(named, truths):
    wrong = right = 0
    for kinds, there in zip(named, truths):
        for kind in kinds:
            if kind in there: right += 1
            else: wrong += 1
    return wrong / (wrong + right) if wrong + right else 0.


def recall(named, truths):
    return sum(len(set(kinds) & there) for kinds, there in zip(named, truths)) / sum(map(len, truths))


def recall_over_things(named, truths):
    found = [thing in kinds for kinds, there in zip(named, truths) for thing in there]
    return sum(found) / len(found)


def read_answer(text):
    said = set(re.findall(r"[a-z']+", text.lower()))
    yes = bool(said & {"yes", "yeah"})
    no = bool(said & {"no", "not", "none", "nope"}) or any(word.endswith("n't") for word in said)
    return yes if yes != no else None


def read_answer_by_pattern(text):
    yes, no = (bool(re.search(p, text, re.IGNORECASE)) for p in (r"\b(yes|yep)\b", r"\b(no|not|none|nope)\b|n't\b"))
    if yes and no or not (yes or no): return None
    return yes


def paired_interval(first, second, draws=2000):
    gap = np.asarray(second) - np.asarray(first)
    drawn = np.random.default_rng(0).integers(0, len(gap), (draws, len(gap)))
    return tuple(np.percentile(gap[drawn].mean(1), [2.5, 97.5]))


def paired_interval_in_a_loop(first, second, draws=2000):
    rng, n, gaps = np.random.default_rng(5), len(first), []
    for _ in range(draws):
        picks = rng.choice(n, n)
        gaps.append(second[picks].mean() - first[picks].mean())
    gaps.sort()
    return gaps[int(.025*draws)], gaps[int(.975*draws)]


def habit_strength(scenes, cue, partner):
    some = [s for s in scenes if cue in s.objects]
    return sum(partner in s.objects for s in some) / len(some) if some else None


def habit_strength_of_counts(scenes, cue, partner):
    cues = sum(cue in s.objects for s in scenes)
    return sum({cue, partner} <= s.objects for s in scenes) / cues if cues else None


def probability(vlm, picture, prefix, word): return vlm.next_tokens(picture, prefix=prefix, words=[word])[0].prob


def evidence(vlm, picture, blank, prefix, word):
    return math.log(probability(vlm, picture, prefix, word)) - math.log(probability(vlm, blank, prefix, word))


def evidence_of_a_ratio(vlm, picture, blank, prefix, word):
    return float(np.log(probability(vlm, picture, prefix, word) / probability(vlm, blank, prefix, word)))


def named_share(named, absent):
    hits = [kind in names for names, kinds in zip(named, absent) for kind in kinds]
    return sum(hits) / len(hits)


def named_share_with_sets(named, absent):
    return sum(len(names & set(kinds)) for names, kinds in zip(named, absent)) / sum(map(len, absent))


def stage_trap(cue):
    bystanders = next(pair for habits, pair in world.CONTEXTS.values() if cue in habits)
    return world.Scene.of(*[(world.TRAITS[k][0], k, i) for i, k in enumerate((cue, *bystanders))])


def stage_red_trap(cue):
    for context, (habits, (one, two)) in world.CONTEXTS.items():
        if cue in habits:
            return world.Scene.of(("red", one, "left"), ("red", two, "right"), ("red", cue, "top"), context=context)


RIGHT = [("habit_strength", habit_strength), ("habit_strength", habit_strength_of_counts), ("evidence", evidence),
         ("evidence", evidence_of_a_ratio), ("named_share", named_share), ("named_share", named_share_with_sets),
         ("stage_trap", stage_trap), ("stage_trap", stage_red_trap), ("chair_s", chair_s),
         ("chair_s", chair_s_with_sets), ("chair_i", chair_i), ("chair_i", chair_i_in_a_loop),
         ("recall", recall), ("recall", recall_over_things), ("read_answer", read_answer),
         ("read_answer", read_answer_by_pattern), ("paired_interval", paired_interval),
         ("paired_interval", paired_interval_in_a_loop)]


# ---- Typical mistakes, and a word of what the check says of each ----------------------------------------------------

def pairs(named, truths): return list(zip(named, truths))
def is_wrong(kinds, there): return any(kind not in there for kind in kinds)


def apart(first, second, draws=2000):
    rng, n = np.random.default_rng(0), len(first)
    gaps = second[rng.integers(0, n, (draws, n))].mean(1) - first[rng.integers(0, n, (draws, n))].mean(1)
    return tuple(np.percentile(gaps, [2.5, 97.5]))


def narrow(first, second, draws=2000, size=1, ends=(2.5, 97.5), replace=None):
    gap = (second - first).astype(float)
    n = int(len(gap)*size)
    return tuple(np.percentile(gap[np.random.default_rng(0).integers(0, len(gap), (draws, n))].mean(1), ends))


def with_partner(cue): return staged(cue, lambda habits, pair: [cue, habits[cue]])
def with_both_cues(cue): return staged(cue, lambda habits, pair: [*habits, *pair])
def alone(cue): return staged(cue, lambda habits, pair: [cue])


def staged(cue, kinds_of):
    kinds = next(kinds_of(habits, pair) for habits, pair in world.CONTEXTS.values() if cue in habits)
    return world.Scene.of(*[("red", kind, i) for i, kind in enumerate(kinds)])


WRONG = [
    ("habit_strength", lambda s, c, p: sum({c, p} <= x.objects for x in s)/len(s), "not by all scenes"),
    ("habit_strength", lambda s, c, p: sum(p in x.objects for x in s)/max(1, sum(c in x.objects for x in s)),
     "also hold"),
    ("habit_strength", lambda s, c, p: habit_strength(s, c, p) or 0., "no scene holds the cue"),
    ("habit_strength", lambda s, c, p: habit_strength(s, p, c), "turn it round"),
    ("evidence", lambda v, x, b, p, w: probability(v, x, p, w) - probability(v, b, p, w), "logarithms first"),
    ("evidence", lambda v, x, b, p, w: probability(v, x, p, w)/probability(v, b, p, w), "its logarithm"),
    ("evidence", lambda v, x, b, p, w: evidence(v, b, x, p, w), "order is turned"),
    ("evidence", lambda v, x, b, p, w: math.log(probability(v, x, p, w)), "the prior"),
    ("evidence", lambda v, x, b, p, w: evidence(v, x, b, "", w), "prefix passed on"),
    ("evidence", lambda v, x, b, p, w: evidence(v, x, b, p, w)/math.log(2), "bits"),
    ("named_share", lambda n, a: np.mean([named_share([x], [y]) for x, y in pairs(n, a) if y]), "mean over pictures"),
    ("named_share", lambda n, a: sum(k in x for x, y in pairs(n, a) for k in y)/sum(map(len, n)),
     "not by the objects"),
    ("named_share", lambda n, a: 1 - named_share(n, a), "not named"),
    ("stage_trap", with_partner, "partner, knife, must be absent"),
    ("stage_trap", with_both_cues, "Another cue"),
    ("stage_trap", alone, "bystander is not there"),
    ("stage_trap", lambda cue: stage_trap("fork"), "The cue itself"),
    ("chair_s", chair_i, "share of mentions"),
    ("chair_s", lambda n, t: sum(k not in there for kinds, there in pairs(n, t) for k in kinds)/len(n), "counts once"),
    ("chair_s", lambda n, t: sum(is_wrong(*p) for p in pairs(n, t))/sum(map(bool, n)), "names nothing"),
    ("chair_s", lambda n, t: sum(is_wrong(*p) for p in pairs(n, t)), "a share"),
    ("chair_s", lambda n, t: sum(set(kinds) != there for kinds, there in pairs(n, t))/len(n), "name something absent"),
    ("chair_i", chair_s, "share of captions"),
    ("chair_i", lambda n, t: chair_i([sorted(set(kinds)) for kinds in n], t), "do not make a set"),
    ("chair_i", lambda n, t: sum(chair_i([k], [there]) for k, there in pairs(n, t))/len(n), "mean of each caption"),
    ("chair_i", lambda n, t: sum(k not in s for kinds, s in pairs(n, t) for k in kinds)/sum(map(len, n)),
     "ZeroDivision"),
    ("recall", lambda n, t: sum(k in s for kinds, s in pairs(n, t) for k in kinds)/sum(map(len, t)), "found once"),
    ("recall", lambda n, t: 1 - chair_i(n, t), "precision"),
    ("recall", lambda n, t: sum(recall([k], [s]) for k, s in pairs(n, t))/len(n), "mean of each picture"),
    ("recall", lambda n, t: recall(n, t)*sum(map(len, t))/len(n), "not the captions"),
    ("read_answer", lambda text: "yes" in text.lower(), "Expected None"),
    ("read_answer", lambda text: "no" not in text.lower(), "whole words"),
    ("read_answer", lambda text: not {"No", "no", "not"} & set(text.replace(".", "").split()), "letters|Expected"),
    ("read_answer", lambda text: read_answer(text) or False, "Expected None"),
    ("read_answer", lambda text: None if text == "NO" else read_answer(text), "upper and lower case"),
    ("paired_interval", apart, "same pictures for both"),
    ("paired_interval", lambda a, b: narrow(b, a), "mind the order"),
    ("paired_interval", lambda a, b: narrow(a, b, size=4), "as large as the real one"),
    ("paired_interval", lambda a, b: narrow(a, b, ends=(5, 95)), "2.5th"),
    ("paired_interval", lambda a, b: narrow(a, b, ends=(97.5, 2.5)), "lower end comes first"),
    ("paired_interval", lambda a, b: tuple(x*len(a) for x in narrow(a, b)), "means, not sums"),
]


@pytest.mark.parametrize("name, solution", RIGHT, ids=lambda value: getattr(value, "__name__", value))
def test_right_answers_pass(name, solution):
    assert verdict(name, solution) == ""


@pytest.mark.parametrize("name, solution, message", WRONG, ids=range(len(WRONG)))
def test_mistakes_are_refused_and_named(name, solution, message):
    assert re.search(message, verdict(name, solution)), verdict(name, solution)


def test_each_exercise_has_two_right_and_three_wrong_answers():
    names = {name for name, _ in RIGHT}
    for name in names:
        assert sum(n == name for n, _ in RIGHT) >= 2 and sum(n == name for n, *_ in WRONG) >= 3
    assert names == {name for name in check.exercises()
                     if check._ATTEMPTS[name].__module__ == "povid_nb.checks_measure"}
