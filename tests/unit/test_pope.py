"""pope: questions, the two published parsers by hand, scores, files, and answers by one forward."""
import json, random
from collections import Counter
import pytest
from hypothesis import given, settings, strategies as st
from povid_nb import benches, check, pope, published
from povid_nb.pope import SPLITS, build_questions, parse_pope, parse_vcd, read_questions, score_answers



def evaluate(answers, questions, **how):
    return benches.evaluate("pope", answers=answers, questions=questions, **how)["pope"].scores()


# answer: what POPE's and LLaVA's scorer reads, what VCD's reads where the label is yes, and where it is no. Worked by
# hand.
TRUTH = {
    "Yes": "yes yes yes", "yes": "yes yes yes", "YES": "yes yes yes", "Yes.": "yes yes yes",
    "Yes, there is a dog.": "yes yes yes",
    "No": "no no no", "no": "no no no", "No.": "no no no", "No, there is no dog.": "no no no", " No": "no no no",
    "NO": "yes no no", "NO.": "yes no no", "nO": "yes no no",
    "none": "yes no no", "None": "yes no no", "nothing": "yes no no", "Nope": "yes no no", "Not": "yes no no",
    "": "yes no yes", ".": "yes no yes", "  ": "yes no yes", ". No": "yes no no",
    "I know there is.": "yes no no", "I know, yes.": "yes yes no", "Yes, I know.": "yes yes no",
    "There is snow.": "yes no no",
    "It is not there.": "no no no", "not, really": "no no no", "No,there is one": "yes no no", "no,": "no no no",
    ",No": "no no no",
    "There is no dog. Yes, a cat.": "no yes no", "Yes. There is no cat.": "yes yes no", "Maybe. No.": "yes no no",
    "A dog. Not a cat": "yes no no",
    "No\nThere is none": "yes no no", "Yes and no": "no yes no", "Cannot tell": "yes no no", "Unclear": "yes no yes",
    "eyes": "yes yes yes",
    "No! It isn't": "yes no no", "no?": "yes no no", "Yes!": "yes yes yes"}
WORD = {True: "yes", False: "no"}


@pytest.mark.parametrize("answer", TRUTH)
def test_parsers_against_the_table(answer):
    assert " ".join(map(WORD.get,
                        (parse_pope(answer), parse_vcd(answer, "yes"), parse_vcd(answer, "no")))) == TRUTH[answer]


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_parsers_read_any_text(text):
    assert parse_pope(text) == parse_pope(text, "yes") == parse_pope(text, "no")
    assert parse_vcd(text, "yes") == ("yes" in text.lower()) and parse_vcd(text, "no") != ("no" in text.lower())


def test_clear():
    assert all(map(pope._clear, ["Yes.", "no", "NO", "It is not", "Yes, I know"]))
    assert not any(map(pope._clear, ["", "I cannot tell", "Yes and no", "snow", "Yes, it is not red"]))


def asked(labels, **more):
    return [dict(question_id=i, image=i//2, text="?", label=l, **more) for i, l in enumerate(labels)]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_scores_agree_with_scikit_style_counts(rows):
    labels, said = [WORD[a] for a, _ in rows], [WORD[b].capitalize() for _, b in rows]
    tp = sum(a and b for a, b in rows); fp = sum(b and not a for a, b in rows); fn = sum(a and not b for a, b in rows)
    s = score_answers(asked(labels), said)
    assert s.accuracy == pytest.approx(sum(a == b for a, b in rows)/len(rows))
    assert s.yes_ratio == pytest.approx((tp + fp)/len(rows))
    precision, recall = tp/(tp + fp) if tp + fp else 0, tp/(tp + fn) if tp + fn else 0
    assert (s.precision, s.recall) == pytest.approx((precision, recall))
    assert s.f1 == pytest.approx(2*precision*recall/(precision + recall) if precision + recall else 0)
    assert s.unclear == 0 and s.words == 1


def test_means_are_over_splits_not_over_questions():
    questions = asked(["yes", "no"], split="random") + asked(["no"]*4, split="popular")
    s = score_answers(questions, ["Yes", "No", "Yes", "Yes", "Yes", "No"])
    assert s.splits["random"]["accuracy"] == 1 and s.splits["popular"]["accuracy"] == .25
    assert s.accuracy == .625 and s.n == 6
    table = s.scores()
    assert table["accuracy"].value == .625 and table["accuracy/popular"].value == .25
    assert table["accuracy"].low <= .625 <= table["accuracy"].high and table.protocol["parser"] == "pope"


def test_always_yes_refusing_and_the_answer_that_vcd_always_takes():
    questions = asked(["yes", "no"]*20)
    for answer in ("Yes", "I cannot tell."):
        s = score_answers(questions, [answer]*40)
        assert (s.accuracy, s.yes_ratio) == (.5, 1) and s.f1 == pytest.approx(2/3)
    assert score_answers(questions, ["I cannot tell."]*40).unclear == 1
    assert score_answers(questions, ["Yes and no"]*40, "vcd").accuracy == 1
    assert score_answers(questions, ["Yes and no"]*40, "pope").accuracy == .5


def test_compare_is_paired():
    questions = asked(["yes", "no"]*30)
    good, bad = score_answers(questions, ["Yes", "No"]*30), score_answers(questions, ["Yes", "Yes"]*30)
    d = bad.compare(good, draws=500)["accuracy"]
    assert d.difference == .5 and d.p < .01 and good.compare(good, draws=200)["f1"].p == 1


def test_bad_input():
    q = asked(["yes", "no"])
    with pytest.raises(ValueError, match="parser 'llava': expected pope or vcd"):
        score_answers(q, ["Yes", "No"], "llava")
    with pytest.raises(ValueError, match="2 questions and 1 answers"): score_answers(q, ["Yes"])
    with pytest.raises(ValueError, match="question 0: label 'maybe'"): score_answers(asked(["maybe"]), ["Yes"])
    with pytest.raises(ValueError, match="no questions"): score_answers([], [])
    with pytest.raises(ValueError, match="split 'hard': expected random, popular, adversarial"):
        build_questions({"a": {"x"}}, splits=["hard"])


# ---- questions

KINDS = [f"k{i}" for i in range(9)]
OBJECTS = st.dictionaries(st.integers(0, 30).map(str), st.sets(st.sampled_from(KINDS), min_size=1, max_size=5),
                          min_size=3, max_size=15)


@given(OBJECTS, st.integers(0, 3), st.integers(1, 4), st.sampled_from(["original", "picture"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_questions_are_balanced_true_and_repeatable(objects, seed, per_image, rule, ordered):
    if ordered: objects = {image: sorted(there, reverse=True) for image, there in objects.items()}
    if rule == "original" and max(map(len, objects.values())) < per_image: return
    questions = build_questions(objects, per_image=per_image, seed=seed, rule=rule)
    assert questions == build_questions(objects, per_image=per_image, seed=seed, rule=rule)
    for split in SPLITS:
        rows = [q for q in questions if q["split"] == split]
        assert Counter(q["label"] for q in rows)["yes"] == len(rows)/2
        assert [q["question_id"] for q in rows] == list(range(1, len(rows) + 1))
        for q in rows:
            kind = q["text"].removeprefix("Is there a ").removesuffix(" in the image?")
            assert (kind in objects[q["image"]]) == (q["label"] == "yes")
            if rule == "original": assert len(objects[q["image"]]) >= per_image
        assert len({(q["image"], q["text"]) for q in rows}) == len(rows)


def asked_kinds(objects, split, label, **how):
    rows = [q for q in build_questions(objects, [split], **how) if q["label"] == label]
    return {image: [q["text"].split()[3] for q in rows if q["image"] == image]
            for image in dict.fromkeys(q["image"] for q in rows)}


# counts: table 4, fork 3, knife 3, cup 2, dog 2, cat 1, bed 1, ball 1 (the last picture has two kinds and does not
# count)
# beside table: fork 3, knife 3, cup 2, dog 1;  fork: knife 3, table 3, cup 1;  knife: fork 3, table 3, cup 1
# beside cup: table 2, fork 1, knife 1, dog 1;  dog: table 1, cup 1, cat 1, bed 1, ball 1
WORLD = {"1": ["fork", "knife", "table"], "2": ["fork", "knife", "table", "cup"], "3": ["knife", "fork", "table"],
         "4": ["table", "cup", "dog"], "5": ["cat", "bed", "dog", "ball"], "6": ["ball", "cat"]}


def test_negatives_by_the_originals_rule_by_hand():
    # the first three, as listed
    assert asked_kinds(WORLD, "popular", "yes") == {i: there[:3] for i, there in WORLD.items() if i != "6"}
    assert asked_kinds(WORLD, "popular", "no") == {                # by frequency; cup came before dog
        "1": ["cup", "dog", "cat"], "2": ["dog", "cat", "bed"], "3": ["cup", "dog", "cat"],
        "4": ["fork", "knife", "cat"], "5": ["table", "fork", "knife"]}
    got = asked_kinds(WORLD, "adversarial", "no")
    # fork: cup; knife: only cup, which is gone, so by chance; table: dog
    assert got["1"][0] == "cup" and got["1"][2] == "dog"
    # dog: its company is cat, bed, ball
    assert got["4"] == ["fork", "knife", got["4"][2]] and got["4"][2] in ("cat", "bed", "ball")
    # ties in the order of the file: cat, bed, ball; table before cup
    assert got["4"][2] == "cat" and got["5"][2] == "table"
    assert all(kind not in WORLD[i] for i, kinds in got.items() for kind in kinds)


def test_published_questions_come_out_of_a_published_file_of_objects(tmp_path):
    "POPE's file of objects, one picture a line, as the command line reads it: the same questions, in the same order"
    names = dict(fork="fork", knife="knife", table="dining table", cup="cup", dog="dog", cat="cat", bed="bed",
                 ball="sports ball")
    lines = [json.dumps(dict(image=f"COCO_val2014_{int(i):012}.jpg", objects=[names[k] for k in there]))
             for i, there in WORLD.items()]
    (tmp_path/"coco_ground_truth_segmentation.json").write_text("\n".join(lines))
    asked = published._Pope(annotations=tmp_path/"coco_ground_truth_segmentation.json").questions
    by_hand = {"popular": {"1": ["cup", "dog", "cat"], "2": ["dog", "cat", "bed"], "3": ["cup", "dog", "cat"],
                           "4": ["fork", "knife", "cat"], "5": ["dining table", "fork", "knife"]},
               # None: by chance, or after it
               "adversarial": {"1": ["cup", None, "dog"], "4": ["fork", "knife", "cat"], "5": [None, None, None]}}
    for split, pictures in by_hand.items():
        for image, kinds in pictures.items():
            negatives = [q["text"].removeprefix("Is there a ").removesuffix(" in the image?") for q in asked
                         if (q["split"], q["image"], q["label"]) == (split, image, "no")]
            assert len(negatives) == 3 and all(want in (None, got) for want, got in zip(kinds, negatives)), (
                (split, image, negatives))
    positives = [q["text"] for q in asked if q["split"] == "popular" and q["label"] == "yes"][:3]
    # the first three, as listed
    assert positives == [f"Is there a {k} in the image?" for k in ("fork", "knife", "dining table")]


def test_an_order_of_the_annotations_and_sets():
    as_sets = {i: set(there) for i, there in WORLD.items()}
    yes = asked_kinds(as_sets, "adversarial", "yes", seed=3)
    assert set(yes) == {"1", "2", "3", "4", "5"}
    assert all(set(kinds) <= as_sets[i] and len(kinds) == 3 for i, kinds in yes.items())
    with pytest.raises(ValueError, match="rule 'mine': expected original, picture"):
        build_questions(WORLD, rule="mine")


def test_the_picture_rule_sums_over_the_picture():
    objects = {"1": {"fork", "knife"}, "2": {"fork", "knife"}, "3": {"fork", "tree"}, "4": {"tree", "dog"},
               "5": {"tree", "cat"}, "6": {"tree"}}
    pick = lambda split: [q["text"].split()[3] for q in build_questions(objects, [split], per_image=1, rule="picture")
                          if q["label"] == "no"]
    # tree 4, fork 3, knife 2, the rest 1
    assert pick("popular") == ["tree", "tree", "knife", "fork", "fork", "fork"]
    # most often beside what is there; ties by name
    assert pick("adversarial") == ["tree", "tree", "knife", "cat", "dog", "cat"]
    assert "Is there an apple?" == pope._question("apple", "Is there a{n} {kind}?")


# ---- files

def write(path, rows): path.write_text("\n".join(json.dumps(r) for r in rows))


def test_files_with_repeated_ids_are_matched_by_split(tmp_path):
    for split in SPLITS:
        write(tmp_path/f"coco_pope_{split}.json",
              [dict(question_id=i, image=f"{i}.jpg", text="?", label=l) for i, l in enumerate(["yes", "no"], 1)])
    questions = read_questions(*[tmp_path/f"coco_pope_{s}.json" for s in SPLITS])
    assert [q["split"] for q in questions] == [s for s in SPLITS for _ in range(2)]
    write(tmp_path/"a.jsonl",
          [dict(question_id=q["question_id"], category=q["split"], text="Yes" if q["split"] == "popular" else "No")
           for q in random.Random(0).sample(questions, 6)])
    out = evaluate(tmp_path/"a.jsonl", [tmp_path/f"coco_pope_{s}.json" for s in SPLITS]).to_dict()
    assert (out["accuracy"], out["yes_ratio"], out["recall/popular"], out["recall/random"], out["n"]) == (.5,
        pytest.approx(1/3), 1, 0, 6)
    assert out["protocol"]["parser"] == "pope" and set(out["intervals"]) >= {"accuracy", "f1", "yes_ratio"}


def test_one_file_needs_no_split_and_parser_matters(tmp_path):
    write(tmp_path/"q.jsonl", asked(["yes", "no"]))
    write(tmp_path/"a.jsonl", [dict(question_id=1, text="NO"), dict(question_id=0, text="Yes")])
    assert evaluate(tmp_path/"a.jsonl", tmp_path/"q.jsonl").to_dict()["accuracy"] == .5
    assert evaluate(tmp_path/"a.jsonl", tmp_path/"q.jsonl", parser="vcd").to_dict()["accuracy"] == 1


def files(tmp_path, n=4):
    "Three published question files of `n` questions, and the questions"
    for split in SPLITS:
        write(tmp_path/f"coco_pope_{split}.json",
              [dict(question_id=i, image=f"COCO_val2014_{i//2:012}.jpg", text=f"Is there {split} {i}?",
                    label="no" if i % 2 else "yes") for i in range(n)])
    return [tmp_path/f"coco_pope_{s}.json" for s in SPLITS]


def test_popes_own_answer_format_in_three_files_and_in_one(tmp_path):
    paths = files(tmp_path)
    for split, path in zip(SPLITS, paths):
        write(tmp_path/f"llava_{split}_answers.json",
              [dict(question=q["text"], answer="Yes" if split == "popular" else "No, it is not.")
               for q in read_questions(path)])
    answers = [tmp_path/f"llava_{s}_answers.json" for s in SPLITS]
    out = evaluate(answers[::-1], paths).to_dict()                                  # whatever the order of the files
    assert (out["recall/popular"], out["recall/random"], out["accuracy"], out["n"]) == (1, 0, .5, 12)
    assert evaluate(answers[0], paths[0]).to_dict()["accuracy"] == .5
    write(tmp_path/"all.json", [dict(question=q["text"], answer="No") for q in read_questions(*paths)])
    with pytest.raises(ValueError, match="answers without ids to several splits: give one file for each split"):
        evaluate(tmp_path/"all.json", paths)
    shuffled = [dict(question=q["text"], answer="No") for q in read_questions(paths[0])][::-1]
    write(tmp_path/"llava_random_answers.json", shuffled)
    with pytest.raises(ValueError,
                       match="the answer to question_id 0, split random, names another question 'Is there random 3"):
        evaluate(answers[0], paths[0])
    write(tmp_path/"llava_random_answers.json", shuffled[:2])
    with pytest.raises(ValueError, match="2 answers without ids to 4 questions, split random"):
        evaluate(answers[0], paths[0])


def test_the_question_is_never_scored_as_the_answer(tmp_path):
    paths = files(tmp_path)
    rows = [dict(question_id=q["question_id"], text=q["text"], answer="No") for q in read_questions(paths[0])]
    write(tmp_path/"a.jsonl", rows)
    with pytest.raises(ValueError,
                       match="a.jsonl, line 1: text and answer may each hold the reply; say which with --field"):
        evaluate(tmp_path/"a.jsonl", paths[0])
    assert evaluate(tmp_path/"a.jsonl", paths[0], field="answer").to_dict()["yes_ratio"] == 0
    write(tmp_path/"b.jsonl",
          [dict(question_id=r["question_id"],
                prompt=r["text"] + "\nAnswer the question using a single word or phrase.", text="No") for r in rows])
    assert evaluate(tmp_path/"b.jsonl", paths[0]).to_dict()["yes_ratio"] == 0       # LLaVA's own format


@given(st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_shuffled_rows_and_other_file_order_give_the_same_numbers(tmp_path_factory, rng):
    folder = tmp_path_factory.mktemp("p")
    paths = files(folder, 8)
    rows = [dict(question_id=q["question_id"], category=q["split"], text=rng.choice(["Yes", "No"]))
            for q in read_questions(*paths)]
    write(folder/"a.jsonl", rows)
    straight = evaluate(folder/"a.jsonl", paths).to_dict()
    rng.shuffle(rows); rng.shuffle(paths)
    write(folder/"a.jsonl", rows)
    mixed = evaluate(folder/"a.jsonl", paths).to_dict()
    assert {k: v for k, v in mixed.items()
            if isinstance(v, float)} == pytest.approx({k: v for k, v in straight.items() if isinstance(v, float)})
    write(folder/"a.jsonl", rows + [rows[0] | {"text": "perhaps"}])
    with pytest.raises(ValueError, match="both are question_id"): evaluate(folder/"a.jsonl", paths)


def test_compare_does_not_depend_on_the_order_of_files(tmp_path):
    paths = files(tmp_path)
    one, other = read_questions(*paths), read_questions(*paths[::-1])
    say = lambda questions, word: score_answers(questions, [word(q) for q in questions])
    truth, yes = (lambda q: q["label"]), (lambda q: "Yes")
    a, b = say(one, truth), say(other, yes)
    assert a.compare(b, draws=300) == say(one, truth).compare(say(one, yes), draws=300)
    assert a.compare(say(other, truth), draws=100)["accuracy"].difference == 0
    moved = [q | {"text": "Is there another?"} for q in one]
    with pytest.raises(ValueError, match="only one side has"): a.compare(say(moved, yes))


def test_warnings_are_counted_in_the_output(tmp_path):
    paths = files(tmp_path)
    write(tmp_path/"a.jsonl",
          [dict(question_id=q["question_id"], split=q["split"], text="Yes") for q in read_questions(*paths)])
    out = evaluate(tmp_path/"a.jsonl", paths[0]).to_dict()
    assert out["n"] == 4 and out["protocol"]["warnings"] == ["8 answers belong to no question"]
    write(tmp_path/"q.jsonl", [dict(question_id=i, text="?", label="yes") for i in range(4)])
    write(tmp_path/"b.jsonl", [dict(question_id=i, text="Yes") for i in range(4)])
    assert "name no image" in evaluate(tmp_path/"b.jsonl", tmp_path/"q.jsonl").protocol["warnings"][0]
    write(tmp_path/"b.jsonl",
          [dict(question_id=i, text="Yes", image="COCO_val2014_000000000009.jpg") for i in range(4)])
    with pytest.raises(ValueError,
                       match="question_id 0, split random, names another image COCO_val2014_000000000009.jpg"):
        evaluate(tmp_path/"b.jsonl", paths[0])
    with pytest.raises(ValueError, match="12 questions stand in two files|4 questions stand in two files"):
        read_questions(paths[0], paths[0])


def test_missing_answers_and_fields_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 2 questions have no answer \(the first is question_id 1"):
        pope._match(asked(["yes", "no"], split="all"), [pope._Answer(question_id=0, text="Yes")])
    write(tmp_path/"q.jsonl", [dict(question_id=1, text="?")])
    with pytest.raises(ValueError, match="row 1: no label"): read_questions(tmp_path/"q.jsonl")


def test_answers_to_pope_are_scored_by_repopes_labels(tmp_path):
    "Same ids, a label corrected, a question left out"
    rows = [dict(question_id=n, image=f"{n}.jpg", text="Is there a cat in the image?", label="yes") for n in (1, 2, 3)]
    write = lambda name, rows: (tmp_path/name).write_text("\n".join(map(json.dumps, rows)))
    write("coco_repope_popular.json", [rows[0], rows[2] | {"label": "no"}])
    write("answers_popular.jsonl",
          [dict(question_id=n, prompt="Is there a cat in the image?", text="Yes") for n in (1, 2, 3)])
    t = benches.evaluate("pope", questions=tmp_path/"coco_repope_popular.json",
                         answers=tmp_path/"answers_popular.jsonl")["pope"]
    assert (t.n, t.accuracy) == (2, .5)
    assert t.protocol["warnings"] == ["1 answers belong to no question"]
    assert list(t.splits) == ["popular"]
