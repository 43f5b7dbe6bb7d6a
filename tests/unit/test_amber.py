"""amber: both halves against the original's rules, by hand and on its own annotations."""
import json, random
from pathlib import Path
import pytest
from povid_nb import amber
from povid_nb.amber import discriminative, generative
from povid_nb.coco import _plural

FILES = Path(__file__).parents[2]/".."/"shared"/"data"/"amber"
WORDS = ("can", "watch", "shelf", "scarf", "tomato", "potato", "painting", "sailing", "TV", "man", "people", "tree",
         "light", "orange",
         "sign", "train", "table", "leave", "hot", "sunglasses", "bus", "glass", "knife", "water", "ski")


@pytest.mark.parametrize("caption, expected", [
    ("A man can be seen under the trees.", "man tree"), ("He can watch TV.", "TV"), ("They watch a watch.", "watch"),
    ("a trash can, two cans, the can of soda", "can can can"), ("people can see that the can is red", "people can"),
    ("shelves, scarves, tomatoes, potatoes, knives", "shelf scarf tomato potato knife"),
    ("buses and glasses", "bus glass"),
    ("Trees are near. People walk. Man.", ""), ("TVs and a tv", ""), ("a TV", "TV"), ("hot water", "water"),
    ("leaves leave", ""),
    ("sunglasses", ""), ("a man painting a wall", "man"), ("a large painting of paintings", "painting painting"),
    ("boats sailing, a sailing", "sailing"), ("a light blue table", "table"), ("a light on the table", "light table"),
    ("an orange shirt and an orange", "orange"), ("he trains to ski, a train", "train"),
    ("a man wants to train", "man"),
    ("they will table it; the table", "table"), ("it signs; a sign", "sign")])
def test_nouns_by_hand(caption, expected): assert amber._nouns(caption, WORDS) == expected.split()


def by_the_rule(nouns, truth, hallu, relation, safe):
    "The original's marks of one response, in plain steps: [nouns, wrong, things covered, things imagined]"
    def first(noun, things):
        for i, thing in enumerate(things):
            if noun in relation[thing]: return i
        return things.index(noun) if noun in things else None
    covered, imagined, wrong = set(), set(), 0
    for noun in nouns:
        if noun in safe: continue
        if first(noun, truth) is not None: covered.add(first(noun, truth))
        else:
            wrong += 1
            if first(noun, hallu) is not None: imagined.add(first(noun, hallu))
    return len(nouns), wrong, len(covered), len(imagined)


def published():
    if not FILES.exists(): pytest.skip("AMBER's annotations are not in ../shared/data/amber")
    read = lambda name: json.loads((FILES/name).read_text())
    return read("annotations.json"), read("relation.json"), (FILES/"safe_words.txt").read_text().split()


def test_generative_on_400_constructed_responses_to_the_published_annotations():
    annotations, relation, safe = published()
    rng, words = random.Random(0), sorted({w for k, v in relation.items() for w in [k, *v]} - amber._NEVER - {"TV"})
    chosen = rng.sample([a for a in annotations if a["type"] == "generative"], 400)
    said, responses = {}, {}
    for a in chosen:
        likely = a["truth"] + a["hallu"] + rng.sample(words, 4)
        said[a["id"]] = [w for w in rng.choices(likely, k=rng.randint(0, 9)) if w in words]
        phrase = lambda w: (f"there is the {w}" if rng.random() < .5 or w in ("sand", "clothing")
                            else f"there are the {_plural(w)}")
        responses[a["id"]] = "; ".join(map(phrase, said[a["id"]])) + "."
    rows = [(*by_the_rule(said[a["id"]], a["truth"], a["hallu"], relation, safe), a) for a in chosen]
    nouns, wrong, covered, imagined = (sum(column) for column in list(zip(*rows))[:4])
    s = generative(responses, annotations, relation, safe)
    assert s.n == 400 and s.chair == wrong/nouns and s.hal == sum(r[1] > 0 for r in rows)/400
    assert s.cover == covered/sum(len(a["truth"]) for a in chosen)
    assert s.cog == imagined/sum(len(a["hallu"]) for a in chosen)
    # the test is not about nothing
    assert .2 < s.chair < .8 and 0 < s.cog < s.cover < 1


def test_one_noun_covers_one_thing_and_similarity_forgives():
    annotations = [{"id": 1, "type": "generative", "truth": ["sea", "boat", "ship"], "hallu": ["fish", "bird"]}]
    relation = {"sea": ["ocean", "water"], "boat": ["ship"], "ship": ["boat"], "fish": [], "bird": ["gull"],
                "lake": []}
    # the ship is the boat, and not the ship, too
    s = generative({"1": "a ship, a lake, a gull"}, annotations, relation)
    assert (s.chair, s.cover, s.hal, s.cog) == (2/3, 1/3, 1, 1/2)
    alike = lambda a, b: .9 if {a, b} == {"lake", "sea"} or a == b else .1
    s = generative({"1": "a ship, a lake, a gull"}, annotations, relation, similar=alike)
    assert (s.chair, s.cover, s.hal, s.cog) == (1/3, 2/3, 1, 1/2) and "similarity" in s.protocol["scorer"]
    s = generative({"1": "a ship, a lake, a gull"}, annotations, relation, safe=["gull"],
                   nouns=lambda text: ["gull", "Ship"])
    assert (s.mentions, s.chair, s.cover) == (1, 0, 0)


def test_responses_without_annotation_and_without_type_are_refused():
    annotations = [{"id": 1, "type": "generative", "truth": ["sea"], "hallu": ["fish"]},
                   {"id": 2, "type": "relation", "truth": "no"}]
    with pytest.raises(ValueError, match="1 of 2 responses have no annotation, such as 9"):
        generative({1: "x", 9: "y"}, annotations, {})
    with pytest.raises(ValueError, match="no response has the id of a generative annotation"):
        generative({2: "x"}, annotations, {"sea": []})
    with pytest.raises(ValueError, match="no response has the id of a discriminative"):
        discriminative({1: "x"}, annotations)


def test_the_figures_of_the_originals_rules_on_the_published_annotations():
    "All answered No: accuracy 66.3 over 14,216 rows. Relation rows, 80 % right: precision 72.6, recall 79.2, F1 75.8"
    annotations = [a for a in published()[0] if a["type"] != "generative"]
    s = discriminative({a["id"]: "No" for a in annotations}, annotations)
    assert s.n == 14216 and round(100*s.accuracy, 1) == 66.3 and s.recall == 1 and s.yes_ratio == 0
    relation = [a for a in annotations if a["type"].endswith("relation")]
    said = {a["id"]: {"yes": "Yes", "no": "No"}[a["truth"]] for a in relation}
    yes, no = ([a["id"] for a in relation if a["truth"] == truth] for truth in ("yes", "no"))
    assert (len(relation), len(no)) == (1664, 689)
    for i in yes[::5]: said[i] = "No"
    for i in no[::5]: said[i] = "Yes"
    s, wrong_no, right_no = discriminative(said, annotations), len(yes[::5]), len(no) - len(no[::5])
    assert s.values["precision/relation"] == s.precision == right_no/(right_no + wrong_no)
    assert s.values["recall/relation"] == right_no/689 and 74 < 100*s.values["f1/relation"] < 78


def test_every_dimension_against_the_rule():
    "The original's counters, in plain lines: no is positive, and an answer is right only as the exact word"
    rng = random.Random(1)
    types = {"discriminative-hallucination": "existence", "discriminative-attribute-state": "state",
             "discriminative-attribute-number": "number",
             "discriminative-attribute-action": "action", "discriminative-relation": "relation",
             "relation": "relation"}
    annotations = [dict(id=i, type=rng.choice(list(types)), truth=rng.choice(["yes", "no"])) for i in range(600)]
    said = {a["id"]: rng.choice(["Yes", "No", "No", "no", "yes.", "", "No."]) for a in annotations}
    s = discriminative(said, annotations)
    groups = {"": annotations, "/attribute": [a for a in annotations if "attribute" in a["type"]]}
    groups |= {f"/{d}": [a for a in annotations if types[a["type"]] == d] for d in types.values()}
    for tail, rows in groups.items():
        right = sum((a["truth"], said[a["id"]]) in (("yes", "Yes"), ("no", "No")) for a in rows)
        no_right = sum(a["truth"] == "no" and said[a["id"]] == "No" for a in rows)
        precision, recall = no_right/sum(said[a["id"]] == "No" for a in rows), no_right/sum(a["truth"] == "no"
            for a in rows)
        assert s.values[f"accuracy{tail}"] == right/len(rows)
        assert (s.values[f"precision{tail}"], s.values[f"recall{tail}"]) == (precision, recall)
        assert s.values[f"f1{tail}"] == pytest.approx(2*precision*recall/(precision + recall))
    assert s.unread == sum(v not in ("Yes", "No") for v in said.values())/600
    by_image = discriminative(said, annotations, {a["id"]: a["id"]//6 for a in annotations})
    assert by_image.scores()["f1"].low < s.f1 < by_image.scores()["f1"].high


def test_spacy_is_optional():
    with pytest.raises(ImportError, match="spaCy with its model no_such_model is not installed: pip install spacy"):
        amber.spacy_reader("no_such_model")
