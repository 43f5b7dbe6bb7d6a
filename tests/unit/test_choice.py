"""choice: reading letters by hand, circular scoring against brute force, files, and answers without writing."""
import base64, io, json
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from povid_nb import choice
from povid_nb.benches import evaluate
from povid_nb.choice import (Choice, answer_choices, _parse_llava, _parse_mmbench, read_mmbench, read_scienceqa,
                             rotations, score_choices)

OPTIONS = ("a fork", "a bird", "a sofa", "a bus")
# answer: the option by LLaVA's ScienceQA rules, and by VLMEvalKit's matching. Worked by hand.
TRUTH = {
    "A": (0, 0), "D": (3, 3), "E": (None, None), " C\n": (None, 2), "C ": (None, 2), "B. a bird": (1, 1),
    "B.a bird": (None, 1), "B.": (None, 1),
    "B\n": (None, 1), "The answer is C.": (2, 2), "I think so. The answer is C, sure": (2, 2),
    "The answer is C": (None, 2), "The answer is E.": (None, None),
    "The answer is A. No: The answer is B.": (None, None), "the answer is C.": (None, 2),
    "E. The answer is A.": (None, 0),
    "(D)": (None, 3), "c)": (None, None), "option a": (None, None), "Answer: B": (None, 1), "It is a bus.": (None, 3),
    "A bus": (None, 0), "A BIRD!": (None, 0),
    "a fork and a bird": (None, None), "a birdcage": (None, 1), "": (None, None), "Both": (None, None),
    "I cannot answer.": (None, None),
    "C is what I would say to that": (None, None), "B, or so I think": (None, None), "B, so I think": (None, 1),
    "a bird, " + "for many reasons"*4: (None, None), "Cannot determine the answer: B": (None, None)}


def letter_by_the_rule(text):
    """LLaVA's rule, step by step: the letter alone; the letter, a stop and a space; the one 'The answer is X' with
    a character after it"""
    if len(text) == 1 and text in "ABCDE": return text
    if len(text) > 2 and text[0] in "ABCDE" and text[1] == "." and text[2] == " ": return text[0]
    said, at, phrase = [], 0, "The answer is "
    while (at := text.find(phrase, at)) >= 0:
        letter, after = text[at + 14:at + 15], text[at + 15:at + 16]
        if "A" <= letter <= "Z" and after and after != "\n": said, at = [*said, letter], at + 16
        else: at += 1
    return said[0] if len(said) == 1 else None


PIECES = st.sampled_from(["A", "B", "D", "E", "F", ". ", ".", " ", "\n", "The answer is ", "the answer is ", "a bird",
                          "so", ", "])


@given(st.lists(PIECES, max_size=7).map("".join))
@settings(max_examples=500, deadline=None)
def test_letters_are_read_as_llavas_scorer_reads_them(text):
    letter = letter_by_the_rule(text)
    assert _parse_llava(text, OPTIONS) == ("ABCD".index(letter) if letter and letter in "ABCD" else None)


@pytest.mark.parametrize("answer", TRUTH)
def test_parsers_against_the_table(answer):
    assert (_parse_llava(answer, OPTIONS), _parse_mmbench(answer, OPTIONS)) == TRUTH[answer]


def matched_by_the_rule(text):
    """VLMEvalKit's matching, step by step: punctuation to spaces, one letter among the last four words; else one
    option inside a short text"""
    spaced = "".join(" " if c in ".()[],:;!*#{}" else c for c in text).split()
    letters = [letter for letter in "ABCD" if letter in spaced]
    if len(letters) == 1 and letters[0] in spaced[-4:] and letters[0] not in spaced[:-4]:
        return "ABCD".index(letters[0])
    inside = [i for i, option in enumerate(OPTIONS) if option in text.lower()]
    return inside[0] if len(inside) == 1 and len(text) <= 2*len("".join(OPTIONS)) else None


@given(st.lists(st.one_of(PIECES, st.sampled_from(["(C)", "a bus", "or", "D "])), max_size=9).map("".join))
@settings(max_examples=400, deadline=None)
def test_options_are_matched_as_vlmevalkit_matches_them(text):
    assert _parse_mmbench(text, OPTIONS) == matched_by_the_rule(text)


@given(st.integers(2, 6), st.data())
@settings(max_examples=40, deadline=None)
def test_turning_keeps_the_right_option(n, data):
    answer = data.draw(st.integers(0, n - 1))
    c = Choice("x", None, "?", tuple(f"o{i}" for i in range(n)), answer)
    turns = rotations([c])
    assert len(turns) == n and {t.options[t.answer] for t in turns} == {f"o{answer}"}
    assert sorted(t.answer for t in turns) == list(range(n))
    assert c.turned(n).options == c.options


@given(st.lists(st.tuples(st.integers(0, 2), st.tuples(*[st.integers(0, 3)]*3), st.sampled_from(["x", "y"])),
                min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_scores_against_brute_force(rows):
    choices = [Choice(str(i), None, "?", ("a", "b", "c"), answer, category=cat)
               for i, (answer, _, cat) in enumerate(rows)]
    said = [("A", "B", "C", "dunno")[s] for _, picks, _ in rows for s in picks]
    right = [[p == (answer - t) % 3 for t, p in enumerate(picks)] for answer, picks, _ in rows]
    s = score_choices(rotations(choices), said)
    assert s.n == len(rows)
    assert s.accuracy == pytest.approx(sum(r[0] for r in right)/len(rows))
    assert s.circular == pytest.approx(sum(map(all, right))/len(rows))
    assert s.unread == pytest.approx(sum(p == 3 for _, picks, _ in rows for p in picks)/len(said))
    assert s.says_a == pytest.approx(sum(p == 0 for _, picks, _ in rows for p in picks)/len(said))
    for cat in {c for *_, c in rows}:
        inside = [r for r, (*_, c) in zip(right, rows) if c == cat]
        assert s.values[f"accuracy/{cat}"] == pytest.approx(sum(r[0] for r in inside)/len(inside))
    assert s.circular <= s.accuracy


def test_intervals_are_over_questions_and_compare_is_paired():
    choices = [Choice(str(i), None, "?", ("a", "b"), i % 2) for i in range(40)]
    always, perfect = score_choices(rotations(choices), ["A"]*80), score_choices(rotations(choices),
        ["AB"[c.answer] for c in rotations(choices)])
    assert (always.accuracy, always.circular, perfect.circular) == (.5, 0, 1)
    table = always.scores(by="generation").to_dict()
    assert table["n"] == 40 and .3 < table["intervals"]["accuracy"][0] < .5 < table["intervals"]["accuracy"][1] < .7
    assert always.compare(perfect, draws=300)["circular"].difference == 1


def test_bad_input(tmp_path):
    c = [Choice("1", None, "?", ("a", "b"), 0)]
    with pytest.raises(ValueError, match="parser 'x': expected llava or mmbench"): score_choices(c, ["A"], "x")
    with pytest.raises(ValueError, match="1 questions and 2 answers"): score_choices(c, ["A", "B"])
    with pytest.raises(ValueError, match="no questions"): score_choices([], [])
    with pytest.raises(ValueError, match="1 of 1 questions have no picture"):
        answer_choices(None, c, tmp_path/"a.jsonl")
    with pytest.raises(ValueError, match="by='x': expected generation, letters, options"):
        answer_choices(Speaker(), pictured(c), tmp_path/"a.jsonl", by="x")


def test_prompt_has_hint_question_letters_and_suffix():
    c = Choice("1", None, "Which?", ("x", "y"), 0, hint="Look.")
    assert c.prompt() == "Look.\nWhich?\nA. x\nB. y\nAnswer with the option's letter from the given choices directly."
    assert c.prompt("") == "Look.\nWhich?\nA. x\nB. y"


# ---- files

def test_scienceqa_image_subset_and_split(tmp_path):
    problem = lambda **more: (dict(question="Q?", choices=["x", "y"], answer=1, hint="", image=None, split="test")
                              | more)
    (tmp_path/"problems.json").write_text(json.dumps({"1": problem(image="image.png"), "2": problem(),
                                                      "3": problem(image="image.png", split="train")}))
    assert [c.id for c in read_scienceqa(tmp_path)] == ["1"]
    assert [c.id for c in read_scienceqa(tmp_path, only_images=False)] == ["1", "2"]
    (tmp_path/"pid_splits.json").write_text(json.dumps({"test": ["3"]}))
    c, = read_scienceqa(tmp_path)
    assert (c.id, c.answer, c.options) == ("3", 1, ("x", "y")) and c.image == tmp_path/"test"/"3"/"image.png"


def png():
    data = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def test_mmbench_rows_with_missing_options_and_quoted_text(tmp_path):
    head = "index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\n"
    (tmp_path/"m.tsv").write_text(head + f'3\t"Which, ""if any""?"\tnan\tx\ty\tnan\t\tB\tlogic\t{png()}\n'
                                  + f"4\tQ?\tHint.\tx\ty\tz\tw\tD\tocr\t{png()}\n")
    a, b = read_mmbench(tmp_path/"m.tsv")
    assert (a.question, a.hint, a.options, a.answer, a.category) == ('Which, "if any"?', "", ("x", "y"), 1, "logic")
    assert a.image.getpixel((0, 0)) == (255, 0, 0)
    assert (b.hint, len(b.options), b.answer) == ("Hint.", 4, 3)
    (tmp_path/"t.tsv").write_text(f"index\tquestion\tA\tB\timage\n1\tQ?\tx\ty\t{png()}\n")
    with pytest.raises(ValueError, match="no column answer"): read_mmbench(tmp_path/"t.tsv")
    (tmp_path/"n.tsv").write_text("a\tb\n1\t2\n")
    with pytest.raises(ValueError, match="neither JSON nor a table with a column named"):
        read_mmbench(tmp_path/"n.tsv")


def mmbench(tmp_path, **cells):
    row = (dict(index=7, question="Q?", hint="nan", A="x", B="y", C="z", D="", answer="B", category="c", image=png())
           | cells)
    (tmp_path/"m.tsv").write_text("\t".join(row) + "\n" + "\t".join(map(str, row.values())) + "\n")
    c, = read_mmbench(tmp_path/"m.tsv")
    return c


def test_mmbench_letters_never_shift(tmp_path):
    assert mmbench(tmp_path).options == ("x", "y", "z")
    c = mmbench(tmp_path, B="None", answer="C")                             # an option that says None is an option
    assert (c.options, c.answer) == (("x", "None", "z"), 2)
    for cells, said in [(dict(answer=""), "answer '' is none of its options"),
                        (dict(answer="E"), "answer 'E' is none"), (dict(answer="BC"), "answer 'BC' is none"),
                        (dict(C="nan", answer="C"), "answer 'C' is none"),
                        (dict(B="", answer="C"), "option B is empty and a later one is not"),
                        (dict(image="no picture"), "its image cannot be read")]:
        with pytest.raises(ValueError, match=f"m.tsv, row 1, index 7: {said}"): mmbench(tmp_path, **cells)


def test_scienceqa_problems_are_checked(tmp_path):
    problem = dict(question="Q?", choices=["x", "y"], answer=2, image="image.png", split="test")
    (tmp_path/"problems.json").write_text(json.dumps({"1": problem}))
    with pytest.raises(ValueError, match="problems.json, key '1': .*answer 2 is none of its 2 choices"):
        read_scienceqa(tmp_path)
    (tmp_path/"problems.json").write_text(json.dumps({"1": problem | {"answer": 1}}))
    (tmp_path/"pid_splits.json").write_text('{"test": ["1", "9"]}')
    with pytest.raises(ValueError, match="1 of 2 ids are not in problems.json, such as 9"): read_scienceqa(tmp_path)


def table(tmp_path, *answers):
    head = "index\tquestion\tA\tB\tanswer\timage\n"
    (tmp_path/"m.tsv").write_text(head
                                  + "".join(f"{n}\tQ{n}?\tx\ty\t{a}\t{png()}\n" for n, a in enumerate(answers, 1)))
    return tmp_path/"m.tsv"


def test_answers_twice_and_answers_missing(tmp_path):
    data = table(tmp_path, "B")
    (tmp_path/"a.jsonl").write_text('{"question_id": 1, "text": "B"}\n{"question_id": "1", "text": "A"}\n')
    with pytest.raises(ValueError, match="line 1 and line 2: both are question_id 1"):
        evaluate("mmbench", answers=tmp_path/"a.jsonl", data=data)
    (tmp_path/"a.jsonl").write_text('{"question_id": 2, "text": "B"}\n')
    with pytest.raises(ValueError, match=r"1 of 1 questions have no answer \(the first is 1/0\)"):
        evaluate("mmbench", answers=tmp_path/"a.jsonl", data=data)


def test_mmbench_answers_of_one_round_and_of_all(tmp_path):
    data = table(tmp_path, "B", "A")
    (tmp_path/"a.jsonl").write_text('{"question_id": 1, "text": "B"}\n{"question_id": "2", "text": "A"}\n')
    one = evaluate("mmbench", answers=tmp_path/"a.jsonl", data=data)["mmbench"]
    assert (one.accuracy, one.n) == (1, 2) and "circular" not in one.values
    rows = [dict(question_id=c.id, round_id=c.turn, text="B") for c in rotations(read_mmbench(data))]
    (tmp_path/"b.csv").write_text("question_id,round_id,text\n"
                                  + "".join(f"{r['question_id']},{r['round_id']},B\n" for r in rows))
    every = evaluate("mmbench", answers=tmp_path/"b.csv", data=data)["mmbench"]
    assert (every.accuracy, every.circular) == (.5, 0)


# ---- answering

def pictured(choices):
    return [Choice(c.id, Image.new("RGB", (4, 4)), c.question, c.options, c.answer) for c in choices]


class Speaker:
    "Writes 'B. so' to every prompt that mentions a bird in line B, and prefers long texts"
    name, asked = "speaker", 0
    def describe(self, images, prompts, batch_size, **decoding):
        self.asked += len(prompts)
        return ["B. so" if "B. a bird" in p else "A" for p in prompts]
    def score(self, images, prompts, answers, batch_size):
        return [type("Score", (), {"logps": -1/len(a)}) for a in answers]


def test_three_ways_of_answering_write_one_format(tmp_path):
    choices = pictured([Choice("1", None, "Q?", ("a fork", "a bird"), 1),
                        Choice("2", None, "Q?", ("a bird", "a long sofa", "x"), 0)])
    vlm = Speaker()
    assert answer_choices(vlm, choices, tmp_path/"g.jsonl", batch_size=1) == ["B. so", "A"]
    assert answer_choices(vlm, choices, tmp_path/"g.jsonl", batch_size=1) == ["B. so", "A"] and vlm.asked == 2
    assert answer_choices(vlm, choices, tmp_path/"o.jsonl", by="options") == ["A", "B"]
    rows = [json.loads(l) for l in (tmp_path/"g.jsonl").read_text().splitlines()]
    assert rows[0] == dict(id="1/0", question_id="1", round_id=0, text="B. so")


def test_letters_are_compared_among_the_options_that_exist(monkeypatch):
    ids = {"A": 0, "B": 1, "C": 2}
    monkeypatch.setattr(choice, "_first_tokens", lambda vlm, text, words: {ids[words[0]]})
    monkeypatch.setattr(choice, "_last_logits", lambda vlm, images, prompts: torch.tensor([[0., 1, 9], [0., 1, 9]]))
    vlm = type("V", (), {"text": lambda self, p: p, "name": "v"})()
    two, three = Choice("1", None, "Q?", ("x", "y"), 0), Choice("2", None, "Q?", ("x", "y", "z"), 0)
    assert choice._letter_answers(vlm, [two, three]) == ["B", "C"]
    ids["B"] = 0
    with pytest.raises(ValueError, match="several letters with the same token"):
        choice._letter_answers(vlm, [two, three])
