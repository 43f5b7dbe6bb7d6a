"""chair: scores by hand, properties, files, and the original's mentions on 500 real captions."""
import json, time
from collections import Counter
from pathlib import Path
import pytest
from hypothesis import given, settings, strategies as st
from povid_nb import benches, chair, check, coco, world
from povid_nb.chair import by_length, cut, score
from povid_nb.coco import read_truths

def evaluate(captions, annotations, **how):
    return benches.evaluate("chair", answers=captions, annotations=annotations, **how)["chair"].scores()


REAL = Path(__file__).parents[2]/".."/"shared"/"data"/"chair"


def test_scores_by_hand():
    s = score(["A cup and a fork on a table.", "A dog.", "A dog looks at a cat. The cat runs.", "Nothing here."],
              [{"cup", "dining table"}, {"dog", "person"}, {"dog"}, set()])
    assert (s.chair_s, s.chair_i, s.recall) == (2/4, 3/7, 4/5)
    assert (s.words, s.mentions, s.silent, s.n) == ((8 + 2 + 9 + 2)/4, 7/4, 1/4, 4)
    first = s.captions[0]
    assert [first.caption[m.start:m.end] for m in first.wrong] == ["fork"] and s.captions[1].missing == {"person"}


def test_truth_names_may_be_synonyms_and_unknown_ones_are_refused():
    assert score(["a couch"], [{"sofa"}]).chair_s == 0
    with pytest.raises(ValueError, match="name 'unicorn', which is none of the 80 kinds"):
        score(["a cat"], [{"unicorn"}])
    with pytest.raises(ValueError, match="2 captions and 1 truths"): score(["a", "b"], [set()])
    with pytest.raises(ValueError, match="no captions"): score([], [])


NOUNS = st.sampled_from(["cat", "dogs", "a hot dog", "train tracks", "bus", "people", "and", "the", "toilet", "seat",
                         "baby", "elephant", ",", "."])
CAPTIONS = st.lists(NOUNS, max_size=25).map(" ".join)
TRUTHS = st.sets(st.sampled_from(["cat", "dog", "hot dog", "bus", "person", "toilet", "chair", "elephant"]))


@given(st.lists(st.tuples(CAPTIONS, TRUTHS), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_properties_of_the_score(rows):
    captions, truths = map(list, zip(*rows))
    s = score(captions, truths)
    assert 0 <= s.chair_i <= 1 and 0 <= s.chair_s <= 1 and 0 <= s.recall <= 1
    assert (s.chair_s == 0) == (s.chair_i == 0)
    back = score(captions[::-1], truths[::-1])
    assert (back.chair_s, back.chair_i, back.recall) == (s.chair_s, s.chair_i, s.recall)
    everything = [{m.kind for m in c.mentions} | t for c, t in zip(s.captions, truths)]
    assert score(captions, everything).chair_i == 0
    upper = score([c.upper() for c in captions], truths)
    assert (upper.chair_i, upper.recall) == (s.chair_i, s.recall)


@given(CAPTIONS, TRUTHS, st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_longer_never_names_fewer_things_and_spans_are_words(caption, truth, n):
    longer, shorter = (score([c], [truth]).captions[0] for c in (caption + " .", cut(caption, n)))
    assert shorter.words == min(n, len(caption.split()))
    for m in longer.mentions:
        assert caption[m.start:m.end] == caption[m.start:m.end].strip() and m.end > m.start
    starts = [m.start for m in longer.mentions]
    assert starts == sorted(set(starts))


def write(path, rows): path.write_text("\n".join(json.dumps(r) for r in rows))


def test_evaluate_reads_files_and_prints_fractions(tmp_path):
    write(tmp_path/"c.jsonl", [{"image_id": 1, "caption": "a cat and a dog"}, {"image_id": 2, "caption": "a sofa"}])
    (tmp_path/"m.json").write_text(json.dumps({"1": ["cat"], "2": ["couch", "tv"], "3": ["bus"]}))
    out = evaluate(tmp_path/"c.jsonl", tmp_path/"m.json").to_dict()
    assert (out["chair_s"], out["chair_i"], out["recall"], out["words"], out["n"]) == (.5, 1/3, 2/3, 3.5, 2)
    assert out["intervals"]["chair_s"][0] <= .5 <= out["intervals"]["chair_s"][1]
    assert out["protocol"]["answers"] == "c.jsonl" and "80 kinds" in out["protocol"]["scorer"]


def test_a_synonyms_file_in_the_originals_format(tmp_path):
    (tmp_path/"s.txt").write_text("couch, sofa, davenport\ntoilet\nchair, seat\n")
    write(tmp_path/"c.jsonl", [{"image_id": 1, "caption": "Davenports beside the seat of the toilet. A cat."}])
    (tmp_path/"m.json").write_text('{"1": ["couch"]}')
    out = evaluate(tmp_path/"c.jsonl", tmp_path/"m.json", synonyms=tmp_path/"s.txt").to_dict()
    assert (out["chair_i"], out["recall"], out["mentions"]) == (.5, 1, 2)
    (tmp_path/"empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="the file is empty"): coco._read_synonyms(tmp_path/"empty.txt")


def test_bad_files_are_named(tmp_path):
    write(tmp_path/"c.jsonl", [{"image_id": 1, "caption": "a cat"}, {"image_id": 9, "caption": "a cat"}])
    (tmp_path/"m.json").write_text('{"1": ["cat"]}')
    with pytest.raises(ValueError, match=r"1 of 2 images have no annotation \(the first is 9\)"):
        evaluate(tmp_path/"c.jsonl", tmp_path/"m.json")
    (tmp_path/"l.json").write_text("[1]")
    with pytest.raises(ValueError, match="l.json, row 1: expected an object, found a number"):
        read_truths(tmp_path/"l.json")
    write(tmp_path/"b.jsonl", [{"image_id": 1, "words": "a cat"}])
    with pytest.raises(ValueError, match="row 1: no caption; the row has image_id, words"):
        coco.read_captions(tmp_path/"b.jsonl")


def test_truthful_captions_of_the_world_score_zero_with_full_recall():
    things = coco.Vocabulary(world.SYNONYMS)
    for split in ("typical", "counter", "random"):
        scenes = world.scenes(split, "test", 150)
        s = score([x.caption() for x in scenes], [x.objects for x in scenes], things)
        assert (s.chair_s, s.chair_i, s.recall) == (0, 0, 1)


class Parrot:
    "Describes each image by its name"
    name, calls = "parrot", 0
    def describe(self, images, prompt, batch_size, **decoding):
        self.calls += len(images)
        return [f"a {i}" for i in images]


def test_describing_resumes_and_keeps_order(tmp_path):
    vlm, images = Parrot(), {n: name for n, name in enumerate(["cat", "dog", "bus", "cup", "bed"])}
    pairs = chair.describe_all(vlm, images, tmp_path/"c.jsonl", batch_size=2)
    assert pairs == [(str(n), f"a {name}") for n, name in images.items()]
    assert chair.describe_all(vlm, images, tmp_path/"c.jsonl", batch_size=2) == pairs and vlm.calls == 5
    with pytest.raises(ValueError, match="prompt"):
        chair.describe_all(vlm, images, tmp_path/"c.jsonl", "What is this?", batch_size=2)
    assert coco.read_captions(tmp_path/"c.jsonl") == pairs


# ---- real captions, where they are at hand

def real():
    if not (REAL/"llava15_greedy.jsonl").exists():
        pytest.skip("the 500 LLaVA-1.5 captions are not in ../shared/data/chair")
    rows = [json.loads(l) for l in (REAL/"llava15_greedy.jsonl").read_text().splitlines()]
    return rows, json.loads((REAL/"reference_scores.json").read_text())


def test_mentions_and_scores_agree_with_the_original_rules(capsys):
    rows, reference = real()
    s = score([r["caption"] for r in rows], [r["gt_objects"] for r in rows])
    agree, ours, theirs, lines = 0, 0, 0, []
    for row, c in zip(rows, s.captions):
        a, b = Counter(m.kind for m in c.mentions), Counter(row["reference_mentions"])
        agree, ours, theirs = agree + (a & b).total(), ours + a.total(), theirs + b.total()
        if a != b:
            lines.append(f"image {row['image_id']}: only here {dict(a - b)}, only there {dict(b - a)}: "
                         f"{row['caption']!r}")
    with capsys.disabled():  # shown whether or not the test passes
        print(f"\n{agree} mentions agree, {ours} here, {theirs} there; {len(lines)} captions differ; here {s}", *lines,
              sep="\n")
    assert theirs == reference["mentions"] and agree/max(ours, theirs) >= .99
    for name in ("chair_s", "chair_i", "recall"): assert getattr(s, name) == pytest.approx(reference[name], abs=.005)


def test_length_alone_moves_chair_on_real_captions():
    rows, _ = real()
    curve = by_length([r["caption"] for r in rows], [r["gt_objects"] for r in rows], (20, 45, None))
    for n, s in curve.items():
        print(f"{n or 'all':>4} words: CHAIR_s {100*s.chair_s:.1f}, CHAIR_i {100*s.chair_i:.1f}, recall "
              f"{100*s.recall:.1f}, words {s.words:.1f}")
    assert curve[20].chair_s < curve[45].chair_s < curve[None].chair_s
    assert curve[20].recall < curve[45].recall < curve[None].recall
    assert curve[45].chair_s == pytest.approx(.162, abs=.005) and curve[20].chair_s == pytest.approx(.044, abs=.005)


def test_time_for_5000_real_captions_is_printed():
    rows, _ = real()
    rows = rows*10
    start = time.process_time()
    s = score([r["caption"] for r in rows], [r["gt_objects"] for r in rows])
    read = time.process_time() - start
    s.scores()
    print(f"\n5,000 captions of {s.words:.0f} words: {read:.2f} CPU-seconds, with 2,000 resamples "
          f"{time.process_time() - start:.2f}")
    assert s.n == 5000 and s.mentions > 7


def test_like_for_like_tells_better_from_quieter():
    captions = ["A cat and a fork and a dog.", "A bus and a kite and a car.", "A bed and a vase and a chair."]*10
    truths = [{"cat", "dog"}, {"bus", "car"}, {"bed", "chair"}]*10
    # the same words, fewer of them
    talker, quiet = score(captions, truths), score([cut(c, 2) for c in captions], truths)
    found = chair.like_for_like(talker, quiet, draws=100)
    by = lambda how: (found[how]["chair_s"].difference, found[how]["recall"].difference)
    assert (by("as they are"), by("equal length"), by("equal recall")) == ((-1, -.5), (0, 0), (0, 0))
    better = score(["A cat and a cat and a dog.", "A bus and a bus and a car.", "A bed and a bed and a chair."]*10,
                   truths)
    found = chair.like_for_like(talker, better, draws=100)
    assert (by("as they are"), by("equal length"), by("equal recall")) == ((-1, 0), (-1, 0), (-1, 0))
    back = chair.like_for_like(score(captions[::-1], truths[::-1], ids=range(29, -1, -1)), quiet, draws=100)
    # matched by picture, whatever the order
    assert back["equal length"]["chair_s"].difference == 0
    # as much is named: neither side alone loses its tail
    longer = score([f"{c} And a fork." for c in captions], truths)
    for one, other in ((talker, longer), (longer, talker), (talker, talker)):
        found = chair.like_for_like(one, other, draws=100)["equal recall"]
        assert found["chair_i"].difference == 0 == found["recall"].difference == found["words"].difference
    with pytest.raises(ValueError, match="needs the same items"):
        chair.like_for_like(talker, score(captions[:3], truths[:3]))
