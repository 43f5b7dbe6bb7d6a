"""coco: mentions by hand, plurals, and what the annotation files say."""
from collections import Counter
import pytest
from hypothesis import given, settings, strategies as st
from povid_nb import coco
from povid_nb.coco import coco_vocabulary, read_truths

COCO80, TABLE = coco_vocabulary(), coco._own_synonyms()


def kinds(text, vocabulary=COCO80): return [m.kind for m in vocabulary.find(text)]


@pytest.mark.parametrize("text, expected", [
    ("A man and two women.", "person person"), ("The MAN'S dog", "person dog"),
    ("people, children and kids", "person person person"),
    ("geese, mice, knives, sheep, calves", "bird mouse knife sheep cow"), ("puppies and ponies", "dog horse"),
    ("a hot dog", "hot dog"), ("hot dogs", "hot dog"), ("a hot, dog", "dog"), ("a dog that is hot", "dog"),
    ("train tracks", ""), ("a train near the train track", "train"), ("the home plate", ""),
    ("a baby elephant", "elephant"), ("adult bears", "bear"), ("a baby animal and a bear cub", "bear"),
    ("a baby", "person"),
    ("a passenger train with a passenger", "train person"), ("passenger jets", "airplane"),
    ("the seat of the toilet", "toilet"), ("a toilet seat", "toilet"), ("the seat of the car", "chair car"),
    ("a stop sign, a street light and traffic lights", "stop sign traffic light traffic light"),
    ("a teddy bear and a bear", "teddy bear bear"), ("a bow tie", "tie"), ("wine glasses and a glass", "wine glass"),
    ("a delicate catalogue of scars", ""), ("a half-eaten kite-flyer", ""), ("a dining table", "dining table"),
    ("desks", "dining table"),
    ("laptop computers", "laptop"), ("mobile phones and cell phones", "cell phone cell phone"), ("two TVs", "tv"),
    ("", ""),
    ("a batter, a surfer, a crowd, a mug", ""), ("cups/mugs and cups/forks", ""), ("at seven o'clock", ""),
    ("a wall clock", "clock"),
    ("persons and luggages", "person suitcase"), ("a loon, two sandpipers", "bird bird"),
    ("a hair dryer, an iPhone", ""), ("two canoes", ""),
    ("a canoe", "boat"), ("policemen, servicemen", "person person"), ("buffaloes", "cow"), ("two collies", ""),
    ("a teddy-bear", ""),
    ("a motor bike", ""), ("**cups**, (forks) and 'knives'.", "cup fork knife"), ("a cup–fork", "cup fork"),
    ("dog.cat", ""),
    ("dogs' cats", "dog cat"), ("a potty with a seat", "toilet chair"), ("locomotives", "train"),
    ("stove top oven", "oven oven"), ("a skier on skis", "person skis"), ("Frisbees", "frisbee"),
    ("boxes of doughnuts", "donut")])
def test_mentions_by_hand(text, expected):
    by_hand, rest = [], expected
    while rest:  # kinds may be two words
        name = max((k for k in COCO80.kinds if rest == k or rest.startswith(k + " ")), key=len)
        by_hand.append(name)
        rest = rest[len(name):].strip()
    assert kinds(text) == by_hand


def test_the_two_losses_of_the_original_and_their_repair():
    english = coco_vocabulary(rule="english")
    text = "A bus behind two buses. He ties two ties, and a tie."
    assert kinds("cups/mugs, a tea-cup at five o'clock, o’clock, an iPhone", english) == ["cup", "cell phone"]
    assert kinds(text) == ["bus", "tie"] and kinds(text, english) == ["bus", "bus", "tie", "tie", "tie"]
    with pytest.raises(ValueError, match="word rule 'latin': expected english or original"):
        coco_vocabulary(rule="latin")


def test_every_term_of_the_table_is_found_as_its_own_kind():
    english = coco_vocabulary(rule="english")
    assert len(TABLE) == 80
    for kind, terms in TABLE.items():
        for term in [kind, *terms]:
            assert kinds(f"There is a {term}.", english) == [kind], term
            assert kinds(f"There are {coco._plural(term)}!", english) == [kind], coco._plural(term)


def test_a_word_is_cut_as_the_originals_singular_cuts_it():
    "The rule of the original in plain lines: which plurals come back to the table's word, and which words are lost"
    for kind, term in [(kind, t) for kind, terms in TABLE.items() for t in [kind, *terms]]:
        if " " in term or term in coco._LOST: continue
        lost = term.endswith("s") and term not in ("scissors", "skis")                     # a bus is cut to a bu
        assert kinds(f"one {term} here") == ([] if lost else [kind]), term
        if term in coco._IRREGULAR or term.endswith("man"): continue
        many = coco._plural(term)
        # kept as they are; ties -> ty, canoes -> cano
        lost = many in ("doggies", "collies") or term.endswith(("ie", "oe"))
        assert kinds(f"two {many} here") == ([] if lost else [kind]), many


def test_no_term_stands_under_two_kinds():
    count = Counter(t for kind, terms in TABLE.items() for t in {kind, *terms})
    assert [t for t, n in count.items() if n > 1] == []


@given(st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_can_be_read(text):
    for m in COCO80.find(text): assert text[m.start:m.end]


def test_coco_truth_is_the_union_of_masks_and_captions():
    instances = {"images": [{"id": 1}, {"id": 2}], "categories": [{"id": 5, "name": "cat"}],
                 "annotations": [{"image_id": 1, "category_id": 5}]}
    captions = {"annotations": [{"image_id": 1, "caption": "Two puppies on a sofa"}]}
    assert read_truths(instances, captions) == {"1": {"cat", "dog", "couch"}, "2": set()}
    both = {**instances, "annotations": instances["annotations"] + captions["annotations"]}
    assert read_truths(both) == {"1": {"cat", "dog", "couch"}, "2": set()}
