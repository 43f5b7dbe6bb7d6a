"""From a folder of pictures and annotations to scores and files, with a stand-in for the model."""
import json
import pytest
from PIL import Image
from povid_nb import chair, coco, pope


class Model:
    "Describes a picture by its brightness, and says yes to every cat"
    name = "stand-in"
    def __init__(self): self.described = 0
    def describe(self, images, prompt, batch_size, **decoding):
        if isinstance(prompt, list) and all(p.startswith("Is there") for p in prompt): return ["Yes" if "cat" in p else "No" for p in prompt]
        self.described += len(images)
        return ["A cat on a couch." if Image.open(i).getpixel((0, 0))[0] < 128 else "A dog and a cup." for i in images]


@pytest.fixture
def folder(tmp_path):
    (tmp_path/"images").mkdir()
    for name, shade in (("COCO_val2014_000000000042.jpg", 0), ("7.png", 0), ("x_000000000009.jpg", 255), ("notes_000000000099.jpg", 9)):
        Image.new("RGB", (8, 8), (shade,)*3).save(tmp_path/"images"/name)
    (tmp_path/"truth.json").write_text(json.dumps({42: ["cat", "couch"], 7: ["cat", "bed", "tv"], 9: ["dog"], 1000: ["bus"]}))
    return tmp_path


def test_pictures_are_found_by_id_name_or_file(folder):
    found = coco.find_images(folder/"images", [42, "7", 9, 1000, "x_000000000009", "7.png"])
    assert {i: f.name for i, f in found.items()} == {"42": "COCO_val2014_000000000042.jpg", "7": "7.png", "9": "x_000000000009.jpg",
                                                     "x_000000000009": "x_000000000009.jpg", "7.png": "7.png"}
    with pytest.raises(FileNotFoundError, match="none of its 4 pictures has one of the 2 annotated ids"): coco.find_images(folder/"images", [1, 2])


def test_the_same_seed_chooses_the_same_images(tmp_path):
    for i in range(50): (tmp_path/f"{i}.jpg").touch()
    some = lambda ids, **how: coco.find_images(tmp_path, ids, **how)
    a, b = some(range(50), limit=10, seed=3), some(reversed(range(50)), limit=10, seed=3)
    assert a == b and len(a) == 10 and some(range(50), limit=10, seed=4) != a
    assert len(some(range(50))) == len(some(range(50), limit=99)) == 50


def test_chair_run_writes_captions_scores_and_protocol(folder):
    model = Model()
    s = chair.run(model, folder/"images", folder/"truth.json", folder/"out", prompt="What?", max_new_tokens=9)
    assert (s["chair_s"].value, s["recall"].value, s.n) == (pytest.approx(2/3), pytest.approx(4/6), 3)   # 7: no couch; 9: no cup
    saved = json.loads((folder/"out"/"chair.json").read_text())
    assert saved["protocol"]["prompt"] == "What?" and saved["protocol"]["decoding"] == {"max_new_tokens": 9} and saved["protocol"]["model"] == "stand-in"
    assert saved["n"] == 3 and "| chair_s |" in (folder/"out"/"chair.md").read_text()
    assert len((folder/"out"/"captions.jsonl").read_text().splitlines()) == 3
    again = chair.run(model, folder/"images", folder/"truth.json", folder/"out", prompt="What?", max_new_tokens=9)
    assert again.values == s.values and model.described == 3


def test_pope_run_builds_questions_or_asks_the_published_ones(folder):
    (folder/"truth.json").write_text(json.dumps({42: ["cat", "couch", "tv"], 7: ["cat", "bed", "tv"], 9: ["dog", "cat", "bus"], 1000: ["bus"]}))
    s = pope.run(Model(), folder/"images", folder/"truth.json", folder/"out", by="generation")
    asked = [json.loads(l) for l in (folder/"out"/"questions.jsonl").read_text().splitlines()]
    assert s.n == len(asked) and {q["image"] for q in asked} == {"42", "7", "9"} and set(s.values) > {"accuracy/adversarial", "f1/random"}
    again = pope.evaluate(folder/"out"/"answers.jsonl", folder/"out"/"questions.jsonl")
    assert again.values == s.values                                               # what was written is enough to score again
    rows = [dict(question_id=1, image="COCO_val2014_000000000042.jpg", text="Is there a cat?", label="yes"), dict(question_id=2, image="9", text="Is there a cat?", label="no"),
            dict(question_id=3, image="1000", text="Is there a bus?", label="yes")]
    (folder/"coco_pope_popular.json").write_text("\n".join(map(json.dumps, rows)))
    s = pope.run(Model(), folder/"images", None, folder/"published", questions=folder/"coco_pope_popular.json", by="generation")
    assert (s.n, s["accuracy"].value, s["yes_ratio"].value) == (2, .5, 1)
