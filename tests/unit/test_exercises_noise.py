"Every check of the lessons on noise and lies: wrong answers are refused with the mistake named, right ones accepted"
import json, re
import numpy as np, pytest
from povid_nb import check


def kept(betas=None):
    if betas is None: betas = 1 / (1 + np.exp(-np.linspace(-6, 6, 1000))) * (.005 - 1e-5) + 1e-5
    return np.cumprod(1 - betas)


def sigmoid(): return 1 / (1 + np.exp(-np.linspace(-6, 6, 1000)))


def schedule_in_a_loop():
    left, shares = 1., []
    for t in range(1000):
        l = -6 + 12 * t / 999
        left *= 1 - (1e-5 + (.005 - 1e-5) / (1 + np.exp(-l)))
        shares.append(left)
    return [s**.5 for s in shares], [(1 - s)**.5 for s in shares]


def walk(x, betas, draw):
    for beta in betas: x = np.sqrt(1 - beta) * x + np.sqrt(beta) * draw()
    return x


def walk_by_recursion(x, betas, draw):
    if len(betas) == 0: return x
    return walk_by_recursion((1 - betas[0])**.5 * x + betas[0]**.5 * draw(), betas[1:], draw)


def walk_with(step):
    def fn(x, betas, draw):
        for beta in betas: x = step(x, beta, draw())
        return x
    return fn


def one_noise(x, betas, draw):
    eps = draw()
    for beta in betas: x = np.sqrt(1 - beta) * x + np.sqrt(beta) * eps
    return x


def from_the_start(x, betas, draw):
    for beta in betas: out = np.sqrt(1 - beta) * x + np.sqrt(beta) * draw()
    return out


def same_ratio(k, s, ratios):
    wanted = ratios[k] * s**2
    if wanted < ratios[-1]: raise ValueError
    return int(np.argmin(np.abs(np.log(ratios / wanted))))


def same_ratio_by_search(k, s, ratios):
    wanted = np.log(ratios[k]) + 2 * np.log(s)
    logs = np.log(ratios)
    if wanted < logs.min(): raise ValueError("too low")
    return min(range(len(ratios)), key=lambda j: abs(logs[j] - wanted))


def same_ratio_with(power):
    return lambda k, s, ratios: int(np.argmin(np.abs(np.log(ratios / (ratios[k] * s**power)))))


def word_prob(next_logps, context, pieces):
    return float(np.exp(sum(next_logps(context + pieces[:i])[piece] for i, piece in enumerate(pieces))))


def word_prob_by_product(next_logps, context, pieces):
    p, ids = 1., list(context)
    for piece in pieces:
        p *= np.exp(next_logps(ids)[piece])
        ids.append(piece)
    return p


def mean_and_spread_by_hand(prob, steps, seeds):
    means, spreads = [], []
    for step in steps:
        values = [prob(step, seed) for seed in seeds]
        mean = sum(values) / len(values)
        means.append(mean)
        spreads.append((sum((v - mean)**2 for v in values) / (len(values) - 1))**.5)
    return means, spreads


def mean_and_spread_with(spread):
    def fn(prob, steps, seeds):
        table = np.array([[prob(step, seed) for seed in seeds] for step in steps])
        return table.mean(1), spread(table)
    return fn


def shares_of(probs, true, usual, there):
    shares = dict(true=0., usual=0., there=0., other=0.)
    for word, p in probs.items():
        shares["true" if word == true else "usual" if word in usual else "there" if word in there else "other"] += p
    return shares | {"rest": 1 - sum(shares.values())}


def shares_by_sets(probs, true, usual, there):
    total = lambda words: sum(p for word, p in probs.items() if word in words)
    a, b = total({true}), total(usual - {true})
    c, every = total(there - usual - {true}), total(set(probs))
    return {"true": a, "usual": b, "there": c, "other": every - a - b - c, "rest": 1 - every}


def there_too(probs, true, usual, there):
    shares = shares_of(probs, true, usual, there)
    return shares | {"there": shares["there"] + shares["true"], "rest": shares["rest"] - shares["true"]}


def usual_first(probs, true, usual, there):
    return shares_of(probs, None if true in usual else true, usual, there)


def useful_steps(steps, true, usual, other):
    rise = usual - usual[0]
    return [k for k, r, t, o in zip(steps, rise, true, other) if r > 0 and r >= max(rise) / 2 and t >= o]


def useful_with(good):
    return lambda steps, true, usual, other: [k for k, g in zip(steps, good(true, usual, other)) if g]


def prompt_with(*lines):
    def fn(cause, question, answer):
        return "\n".join((f"Rewrite this answer to {question}", f"Make this mistake: {cause}", *lines, answer))
    return fn


RULES = ("Make a mistake that one would expect to see in such a picture, though it is not true.",
         "Change only what you must.", "The length stays.", "Do not hedge.", "Return JSON.")


def without(i): return prompt_with(*RULES[:i], *RULES[i + 1:])


def reply_by_pattern(text, answer):
    found = re.search(r"\{.*\}", text, re.S)
    if not found: raise ValueError("no JSON")
    reply = json.loads(found[0])
    try: rewritten, edits = reply["rewritten"], reply["edits"]
    except KeyError as error: raise ValueError(f"no field {error}")
    if not edits or not all(e["old"] in answer and e["new"] in rewritten for e in edits):
        raise ValueError("edits do not fit")
    return rewritten, edits


def reply_in_steps(text, answer):
    for end in range(len(text), 0, -1):
        try: reply = json.loads(text[text.index("{"):end])
        except ValueError: continue
        if reply.get("rewritten") and reply.get("edits"):
            if any(e["old"] not in answer for e in reply["edits"]): raise ValueError("old")
            if any(e["new"] not in reply["rewritten"] for e in reply["edits"]): raise ValueError("new")
            return [reply["rewritten"], reply["edits"]]
    raise ValueError("nothing to use")


def loose(text, answer):
    reply = json.loads(text[text.find("{"):text.rfind("}") + 1])
    return reply["rewritten"], reply["edits"]


def without_edits_checked(text, answer):
    rewritten, edits = loose(text, answer) if "edits" in text and "rewritten" in text else (None, None)
    if not edits: raise ValueError("no edits")
    return rewritten, edits


def old_checked(text, answer):
    rewritten, edits = without_edits_checked(text, answer)
    if any(e["old"] not in answer for e in edits): raise ValueError("old")
    return rewritten, edits


def swap_partner(answer, objects, partners):
    for cue in objects:
        if cue in partners and partners[cue] not in objects:
            others = [o for o in objects if o != cue and re.search(rf"\b{o}\b", answer)]
            return re.sub(rf"\b{others[0]}\b", partners[cue], answer) if others else None
    return None


def swap_by_words(answer, objects, partners):
    cues = [kind for kind in objects if kind in partners and partners[kind] not in objects]
    words = re.split(r"(\W+)", answer)
    others = [kind for kind in objects if cues and kind != cues[0] and kind in words]
    if others: return "".join(partners[cues[0]] if word == others[0] else word for word in words)


def swapping(change):
    def fn(answer, objects, partners):
        right = swap_partner(answer, objects, partners)
        return right and change(answer, objects, partners)
    return fn


def present_too(answer, objects, partners):
    cue = next((kind for kind in objects if kind in partners), None)
    other = next((o for o in objects if cue and o != cue and re.search(rf"\b{o}\b", answer)), None)
    return re.sub(rf"\b{other}\b", partners[cue], answer) if other else None


def words_of(text): return re.findall(r"\w+", text.lower())


HEDGES = {"perhaps", "maybe", "possibly", "probably", "may", "might", "could"}


def why_refuse(chosen, rejected, same=True, length=True, hedge=True, new=True):
    a, b = words_of(chosen), words_of(rejected)
    if same and a == b: return "same"
    if length and not .6 <= len(b) / len(a) <= 1.67: return "length"
    if hedge and HEDGES & (set(b) - set(a)): return "hedges"
    if new and len(set(a) & set(b)) < len(set(a)) / 2: return "new text"


def why_refuse_in_a_list(chosen, rejected):
    a, b = words_of(chosen), words_of(rejected)
    reasons = [reason for reason, wrong in (
        ("nothing changed", a == b), ("too short", len(b) < .6 * len(a)), ("too long", len(b) > 1.67 * len(a)),
        ("rewritten", sum(w in b for w in set(a)) * 2 < len(set(a))),
        ("tone", any(w in b and w not in a for w in HEDGES))) if wrong]
    return reasons[0] if reasons else None


def hedge_inside_words(chosen, rejected):
    return (why_refuse(chosen, rejected)
            or ("hedges" if any(h in rejected.lower() and h not in chosen.lower() for h in HEDGES) else None))


RIGHT = {
    "schedule": [lambda: (kept()**.5, (1 - kept())**.5), schedule_in_a_loop],
    "walk": [walk, walk_by_recursion],
    "wrap": [lambda x: (np.trunc(x * 255).astype(np.int64) % 256).astype(np.uint8),
             lambda x: (np.fix(np.float64(x) * 255).astype(int) & 255).astype("uint8")],
    "same_ratio": [same_ratio, same_ratio_by_search],
    "word_prob": [word_prob, word_prob_by_product],
    "mean_and_spread": [mean_and_spread_by_hand, mean_and_spread_with(lambda table: table.std(1, ddof=1))],
    "shares_of": [shares_of, shares_by_sets],
    "useful_steps": [useful_steps, useful_with(
        lambda t, u, o: (t >= o) & (u > u[0]) & (2 * (u - u[0]) >= (u - u[0]).max()))],
    "rewrite_prompt": [prompt_with(*RULES), lambda cause, question, answer: (
        "Keep every word but a few; the same number of words; stay plausible and contradict the picture; be plain.\n"
        f"Then list your edits.\n{cause}\n{question}\n{answer}")],
    "read_reply": [reply_by_pattern, reply_in_steps],
    "swap_partner": [swap_partner, swap_by_words],
    "why_refuse": [why_refuse, why_refuse_in_a_list]}

WRONG = {
    "schedule": [
        (lambda: (kept(), 1 - kept()), "square root is missing"),
        (lambda: (kept()**.5, 1 - kept()**.5), "this is 1 - sqrt"),
        (lambda: (kept(sigmoid())**.5, (1 - kept(sigmoid()))**.5), "betas are not scaled"),
        (lambda: ((1 - (sigmoid() * .00499 + 1e-5))**.5, (sigmoid() * .00499 + 1e-5)**.5), "one small step"),
        (lambda: (kept(sigmoid() * .005)**.5, (1 - kept(sigmoid() * .005))**.5), "step 0"),
        (lambda: kept()**.5, "Expected two arrays")],
    "walk": [
        (walk_with(lambda x, beta, eps: (1 - beta) * x + beta * eps), "square roots are missing"),
        (walk_with(lambda x, beta, eps: x + np.sqrt(beta) * eps), "not made smaller"),
        (one_noise, "your function made 1"),
        (from_the_start, "every step starts from the clean x"),
        (walk_with(lambda x, beta, eps: np.sqrt(beta) * x + np.sqrt(1 - beta) * eps), "Expected ")],
    "wrap": [
        (lambda x: np.uint8(np.clip(x, 0, 1) * 255), "clamped"),
        (lambda x: (np.rint(x * 255).astype(np.int64) % 256).astype(np.uint8), "do not round"),
        (lambda x: (np.floor(x * 255).astype(np.int64) % 256).astype(np.uint8), "rounding down"),
        (lambda x: np.trunc(x * 255) % 256, "the type of the result"),
        (lambda x: (np.trunc(x * 255).astype(np.int64) % 255).astype(np.uint8), "8 bits hold 256 values")],
    "same_ratio": [
        (same_ratio_with(1), "s squared"),
        (same_ratio_with(-2), "the way back"),
        (same_ratio_with(2), "expected a ValueError"),
        (lambda k, s, ratios: int(np.argmin(np.abs(ratios - ratios[k] * s**2))) if k != 500
         else same_ratio(k, s, ratios), "expected a ValueError"),
        (lambda k, s, ratios: min(999, int(k / s)), "Expected")],
    "word_prob": [
        (lambda f, c, p: float(np.exp(f(c)[p[0]])), "the first token alone"),
        (lambda f, c, p: word_prob(f, c, p) and float(np.log(word_prob(f, c, p))), "Expected 0.6"),
        (lambda f, c, p: float(np.log(word_prob(f, c, p))) if len(p) > 1 else word_prob(f, c, p),
         "take exp at the end"),
        (lambda f, c, p: word_prob(f, c, p)**(1 / len(p)), "mean over tokens"),
        (lambda f, c, p: float(np.exp(sum(f(c)[i] for i in p))), "three tokens"),
        (lambda f, c, p: float(np.exp(sum(f(p[:i])[x] for i, x in enumerate(p)))), "give it the context")],
    "mean_and_spread": [
        (mean_and_spread_with(lambda table: table.std(1)), "ddof=1"),
        (mean_and_spread_with(lambda table: table.var(1, ddof=1)), "the variance"),
        (lambda prob, steps, seeds: mean_and_spread_by_hand(lambda k, _: prob(k, 3), steps, seeds),
         "with each of the seeds"),
        (lambda prob, steps, seeds: mean_and_spread_by_hand(prob, steps, seeds)[0], "Expected means and spreads")],
    "shares_of": [
        (there_too, "counts as true"),
        (usual_first, "also counts as usual"),
        (lambda *given: {name: value for name, value in shares_of(*given).items() if name != "rest"},
         "'rest' is missing"),
        (lambda *given: shares_of(*given) | {"rest": 0}, "add up to 1"),
        (lambda probs, true, usual, there: shares_of(probs, true, set(), there), "the share usual")],
    "useful_steps": [
        (useful_with(lambda t, u, o: u - u[0] >= (u - u[0]).max() / 2), "step 999"),
        (useful_with(lambda t, u, o: (u > u[0]) & (t >= o)), "step 300"),
        (useful_with(lambda t, u, o: (u >= u.max() / 2) & (t >= o)), "Expected"),
        (useful_with(lambda t, u, o: (u - u[0] >= (u - u[0]).max() / 2) & (t >= o)), "never rises"),
        (useful_with(lambda t, u, o: (u - u[0] > (u - u[0]).max() * .6) & (t >= o)), "exactly half")],
    "rewrite_prompt": [
        (without(0), "plausible"),
        (without(1), "the rest stays"),
        (without(2), "the length"),
        (without(3), "hedge"),
        (without(4), "list the changes"),
        (lambda cause, question, answer: prompt_with(*RULES)(cause, "?", answer), "the question is not in the prompt"),
        (lambda cause, question, answer: prompt_with(*RULES)(cause, question, answer).replace("{", "(")
         .replace("}", ")"), "the answer is not in the prompt"),
        (lambda cause, question, answer: ("\n".join(RULES) + "{cause}{question}" + answer)
         .format(cause=cause, question=question), "KeyError"),
        (lambda *parts: print(*parts), "Expected a text")],
    "read_reply": [
        (lambda text, answer: (json.loads(text)["rewritten"], json.loads(text)["edits"]), "refused a good reply"),
        (loose, "no field `edits`. Expected a ValueError, your function raised KeyError"),
        (without_edits_checked, "old words are not in the answer"),
        (old_checked, "new words are not in the rewritten answer"),
        (lambda text, answer: reply_by_pattern(text, answer)[0], "plain JSON"),
        (lambda text, answer: reply_by_pattern(text, answer) if "{" in text else None, "a refusal in prose")],
    "swap_partner": [
        (swapping(lambda a, o, p: a.replace("fork", "knife")), "the cue itself was replaced"),
        (swapping(lambda a, o, p: a + " Next to it is a knife."), "the number of words has changed"),
        (swapping(lambda a, o, p: a.replace("cup", "knife", 1)), "only one of two mentions"),
        (lambda a, o, p: "cupboard" in a and a.replace("cup", "knife") or swap_partner(a, o, p),
         "a word inside another word"),
        (present_too, "the knife is there"),
        (lambda a, o, p: swap_partner(a, o, p) or a, "nothing else to replace")],
    "why_refuse": [
        (lambda a, b: why_refuse(a, b, same=False), "the same words"),
        (lambda a, b: why_refuse(a, b, length=False), "twice as long"),
        (lambda a, b: why_refuse(a, b, hedge=False), "`perhaps`"),
        (lambda a, b: why_refuse(a, b, new=False), "another text"),
        (hedge_inside_words, "`may` inside a word"),
        (lambda a, b: "differs" if a != b else "the same words", "two words swapped"),
        (lambda a, b: "hedges" if HEDGES & set(words_of(b)) else why_refuse(a, b), "both hedge"),
        (lambda a, b: why_refuse(a, b) is not None or None, "a reason in words")]}


@pytest.mark.parametrize("name, number", [(name, i) for name in RIGHT for i in range(len(RIGHT[name]))])
def test_right_answers_written_differently_pass(name, number, capsys):
    assert check.check(RIGHT[name][number], name, keep=False), capsys.readouterr().out


@pytest.mark.parametrize("name, number", [(name, i) for name in WRONG for i in range(len(WRONG[name]))])
def test_wrong_answers_are_refused_and_the_mistake_is_named(name, number, capsys):
    solution, message = WRONG[name][number]
    assert not check.check(solution, name, keep=False)
    assert message in capsys.readouterr().out


def test_each_exercise_has_three_wrong_answers_and_two_right_ones():
    assert RIGHT.keys() == WRONG.keys()
    assert all(len(RIGHT[name]) >= 2 and len(WRONG[name]) >= 3 for name in RIGHT)
