"""judge: verdicts read by hand, averages, failures that are counted, and the three benchmarks' files."""
import json, re
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from povid_nb.client import Outcome
from povid_nb.judge import (_MMHAL, _MMVET, _fill, _read_template, llava_bench, mmhal, mmvet, _parse_pair,
                            _parse_rating, _parse_share)


@pytest.mark.parametrize("text, mark", [
    ("Rating: 0", 0), ("fine.\nrating: 6, very informative", 6), ("RATING: 4", 4), ("Rating: 3 (rating: 3)", 3),
    ("**Rating: 5**", 5),
    ("Rating: 2 or Rating: 3", None), ("Rating: 7", None), ("Rating 5", None), ("Rating:5", None), ("", None),
    ("No.", None), ("Rating: -1", None)])
def test_mmhal_ratings(text, mark): assert _parse_rating(text) == mark


@pytest.mark.parametrize("text, pair",
                         [("7 8", (7, 8)), ("7,8", (7, 8)), ("7, 8", None), ("7.5 9\nWhy: 3 4", (7.5, 9)),
                          ("\n8 6", None), ("10 1", (10, 1)), ("7", None),
                                        ("7 8 9", None), ("Assistant 1: 7", None), ("nan 3", None), ("inf 3", None),
                          ("", None)])
def test_llava_bench_pairs(text, pair): assert _parse_pair(text) == pair


@pytest.mark.parametrize("text, share",
                         [("0.6", .6), (" 1.0\n", 1), ("1", 1), ("0", 0), (".5", .5), ("0.5.", None), ("1.1", None),
                          ("5", None), ("0.5 because", .5), ("~0.5", None), ("", None),
                                         ("0,5", None), ("1/2", None), ("0.5\nbecause", None), ("nan", None)])
def test_mmvet_shares(text, share): assert _parse_share(text) == share


def number(text):
    try: return float(text)
    except ValueError: return None


# The rules of the originals, in plain lines
def rating_by_the_rule(text):
    "one of seven strings is in the lower-cased verdict"
    there = [n for n in range(7) if f"rating: {n}" in text.lower()]
    return there[0] if len(there) == 1 else None

def pair_by_the_rule(text):
    "the first line, commas as spaces, holds two numbers around one space"
    first, _, second = text.partition("\n")[0].replace(",", " ").partition(" ")
    return None if " " in second or None in (number(first), number(second)) else (number(first), number(second))

def share_by_the_rule(text):
    "what stands before the first space is a number from 0 to 1"
    value = number(text.strip(" ").partition(" ")[0])
    return value if value is not None and 0 <= value <= 1 else None


PIECES = st.sampled_from(["rating: ", "Rating: ", "RATING: ", "rating", ": ", "0", "1", "3", "6", "7", "10", "8.5",
                          "0.5", "1.0", ".3", ",", " ", " ", "\n", ".", "/", "-", "**", "good", "e1"])


@given(st.lists(PIECES, max_size=9).map("".join))
@settings(max_examples=500, deadline=None)
def test_verdicts_are_read_as_the_originals_read_them(text):
    assert _parse_rating(text) == rating_by_the_rule(text)
    assert _parse_pair(text) == pair_by_the_rule(text)
    assert _parse_share(text) == share_by_the_rule(text)


def test_templates(tmp_path):
    assert _fill(_MMHAL, "C", "Q", "R", "{question} A").count("Q") >= 1
    assert "{question} A" in _fill(_MMHAL, "C", "Q", "R", "{question} A")
    (tmp_path/"original.txt").write_text("1 {}\n2 {}\n3 {}\n4 {}")
    assert _fill(_read_template(tmp_path/"original.txt", _MMHAL), *"cqra") == "1 c\n2 q\n3 r\n4 a"
    assert _read_template(None, _MMHAL) == _MMHAL and _read_template("Rate\n{answer}", _MMHAL) == "Rate\n{answer}"
    with pytest.raises(ValueError, match="no place for the answer"): _read_template("Rate {question}", _MMHAL)


class Script:
    "A judge that says what a function of (prompt, seed) says; None is a refusal, a status word is that status"
    def __init__(self, says): self.says, self.params, self.model, self.asked = says, {"temperature": 0}, "script", []
    def ask(self, requests):
        self.asked += [(r.key, self.params["seed"]) for r in requests]
        return [self.outcome(r.key, self.says(r.messages[-1]["content"], self.params["seed"])) for r in requests]
    def outcome(self, key, said):
        if said in ("refused", "failed", "unsent", "malformed"): return Outcome(key, said, reason="because")
        return Outcome(key, "ok", said, cost=.01)


def records(*answers):
    return [dict(question="Q?", gt_answer="R", image_content=["cup", "fork"], model_answer=a,
                 question_type="xy"[i % 2]) for i, a in enumerate(answers)]


def test_gradings_are_averaged_and_the_spread_is_theirs():
    marks = {"good": [6, 5, 4], "bad": [0, 2, 4]}
    client = Script(lambda prompt, seed: f"Rating: {marks['good' if 'a good answer' in prompt else 'bad'][seed]}")
    s = mmhal(client, records("a good answer", "a bad answer here"), times=3)
    assert s.mean == (5 + 2)/2 and s.spread == pytest.approx((np.std([6, 5, 4]) + np.std([0, 2, 4]))/2)
    assert (s.n, s.graded, s.words, s.unreadable, s.cost) == (2, 2, 3.5, 0, pytest.approx(.06))
    table = s.scores(judge="script").to_dict()
    assert (table["hallucination"], table["mean/x"], table["mean/y"], table["protocol"]["judge"]) == (.5, 5, 2,
        "script")
    assert len(set(client.asked)) == 6


def test_failures_are_left_out_of_the_mean_and_counted():
    said = {"a": "Rating: 6", "b": "no idea", "c": "refused", "d": "unsent", "e": "malformed", "f": "Rating: 2",
            "g": "failed"}
    client = Script(lambda prompt, seed: said[prompt.strip()[-1]])
    s = mmhal(client, records(*"abcdefg"))
    assert s.mean == 4 and (s.n, s.graded) == (7, 2)
    assert (s.unreadable, s.refused, s.missing) == (pytest.approx(2/7), pytest.approx(1/7), pytest.approx(2/7))
    assert {g.status for g in s.gradings} == {"ok", "unreadable", "refused", "unsent", "failed"}
    published = mmhal(client, records(*"abcdefg"), failed=0)
    assert published.mean == pytest.approx((6 + 0 + 0 + 2)/4) and published.scores()["hallucination"].value == 3/4


def test_nothing_graded_is_no_crash_and_no_mark():
    s = mmhal(Script(lambda p, seed: "refused"), records("a", "b"))
    assert (s.mean, s.graded, s.refused) == (0, 0, 1)


def test_compare_is_paired():
    better = mmhal(Script(lambda p, seed: "Rating: 5"), records(*["a"]*12))
    worse = mmhal(Script(lambda p, seed: "Rating: 1"), records(*["a"]*12))
    d = worse.compare(better, draws=500)["mean"]
    assert d.difference == 4 and d.p < .01


def test_missing_fields_are_named():
    with pytest.raises(ValueError, match="row 1: no gt_answer; the row has question, image_content"):
        mmhal(Script(None), [dict(question="Q", image_content=[])])
    with pytest.raises(ValueError, match=r"1 of 2 questions have no answer \(the first is v2\)"):
        mmvet(Script(None), {v: dict(question="?", answer="x") for v in ("v1", "v2")}, {"v1": "x"})


def test_mmvet_groups_by_capability_and_averages_runs():
    questions = {"v1": dict(question="How?", answer="3", capability=["ocr", "math"]),
                 "v2": dict(question="What?", answer="x", capability=["rec"])}
    s = mmvet(Script(lambda p, seed: ["0.2", "0.4"][seed] if "How?" in p else "1.0"), questions,
              {"v1": "three", "v2": "x"}, times=2)
    table = s.scores()
    assert s.mean == pytest.approx(.65)
    assert table["mean/math+ocr"].value == pytest.approx(.3)
    assert table["mean/rec"].value == 1
    assert table["mean/rec alone"].value == 1
    assert table["mean/ocr"].value == table["mean/math"].value == pytest.approx(.3)
    assert _fill(_MMVET, "", "Q", "R", "P").endswith("Question: Q Correct answer: R. Prediction: P Correctness:")


def test_mmvet_columns_by_hand_and_the_prompt():
    "Six questions: a column of each capability counts every question that needs it"
    needs = [["rec"], ["rec", "ocr"], ["ocr", "math"], ["know", "rec", "gen"], ["spat"], ["rec", "ocr"]]
    marks = [1, .5, 0, .7, .2, .3]
    questions = {f"v{i}": dict(question=f"Q{i}.", answer="a<AND>b", capability=n) for i, n in enumerate(needs)}
    seen = []
    def says(prompt, seed): seen.append(prompt); return str(marks[int(re.findall(r"Q(\d)\.", prompt)[-1])])
    s = mmvet(Script(says), questions, {i: "p" for i in questions}, times=1)
    mean = lambda *which: pytest.approx(sum(marks[i] for i in which)/len(which))
    assert [s.values[f"mean/{c}"] for c in ("rec", "ocr", "know", "gen", "spat", "math")] == [mean(0, 1, 3, 5),
        mean(1, 2, 5), .7, .7, .2, 0]
    assert (s.values["mean/rec alone"], s.values["mean/ocr+rec"], s.values["mean/gen+know+rec"]) == (1, mean(1, 5), .7)
    assert s.mean == mean(*range(6)) and "a <AND> b" in seen[0]


def test_scores_of_other_questions_are_not_compared():
    one, other = (mmhal(Script(lambda p, seed: "Rating: 5"), [dict(r, question=q) for r in records("a", "b")])
                  for q in ("Q?", "Other?"))
    with pytest.raises(ValueError, match="only one side has"): one.compare(other)


def test_the_published_rules_for_what_cannot_be_read(tmp_path):
    bench(tmp_path)
    s = llava_bench(Script(lambda p, seed: "8 6" if "Q0" in p else "fine"), tmp_path, tmp_path/"ours.jsonl",
                    failed=(-1, -1), system="S")
    assert s.relative == pytest.approx(100*(6 - 1)/(8 - 1)) and s.protocol["unreadable"] == "counted as (-1, -1)"
    questions = {"v1": dict(question="How?", answer="3", capability=["ocr"]),
                 "v2": dict(question="What?", answer="x", capability=["rec"])}
    assert mmvet(Script(lambda p, seed: "good"), questions, {"v1": "a", "v2": "b"}, times=1, failed=0).mean == 0


def write(path, rows): path.write_text("\n".join(map(json.dumps, rows)))


def bench(folder):
    write(folder/"questions.jsonl",
          [dict(question_id=i, image="a.jpg", text=f"Q{i}", category=c) for i, c in enumerate(["conv", "complex"])])
    write(folder/"context.jsonl", [dict(image="a.jpg", caption=["line one", "line two"])])
    write(folder/"answers_gpt4.jsonl", [dict(question_id=i, text="theirs") for i in range(2)])
    write(folder/"ours.jsonl", [dict(question_id=i, text="ours") for i in (1, 0)])


def test_llava_bench_is_relative_to_the_reference(tmp_path):
    bench(tmp_path)
    seen = []
    def says(prompt, seed): seen.append(prompt); return "8 6\nBecause" if "Q0" in prompt else "10 9"
    s = llava_bench(Script(says), tmp_path, tmp_path/"ours.jsonl").scores()
    assert [s[k].value
            for k in ("relative", "relative/conv", "relative/complex")] == pytest.approx([100*15/18, 100*6/8,
                100*9/10])
    assert s.protocol["judge"] == "script" and s.protocol["temperature"] == 0 and s.protocol["gradings"] == 1
    assert s.protocol["prompt"].startswith("ours, ") and s.protocol["unreadable"] == "left out"
    assert "line one\nline two" in seen[0] and seen[0].index("theirs") < seen[0].index("ours")


def test_llava_bench_takes_the_original_rules(tmp_path):
    bench(tmp_path)
    (tmp_path/"rule.json").write_text(json.dumps({"llava_bench_conv": dict(role="Helper", prompt="RULE A"),
                                                  "llava_bench_complex": dict(role="Helper", prompt="RULE B")}))
    seen = []
    llava_bench(Script(lambda p, seed: seen.append(p) or "5 5"), tmp_path, tmp_path/"ours.jsonl",
                rules=tmp_path/"rule.json")
    assert "RULE A" in seen[0] and "[End of Helper 2]" in seen[0] and "RULE B" in seen[1]
    write(tmp_path/"ours.jsonl", [dict(question_id=0, text="ours")])
    with pytest.raises(ValueError, match="1 of 2 questions have no answer"):
        llava_bench(Script(None), tmp_path, tmp_path/"ours.jsonl")
