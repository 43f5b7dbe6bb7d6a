"""A run on photographs from end to end: pairs from a file, test pictures with COCO's annotations, the figures and
the report"""
import json, random

import pytest
from PIL import Image

import tiny_models
from povid_nb.run import run

THINGS = {1: "fork", 2: "knife", 3: "cup", 4: "dog", 5: "bench"}
CAPTION = "There is a {} beside a {} ."


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    top, rng = tmp_path_factory.mktemp("photographs"), random.Random(0)
    for folder in ("train", "test"): (top/folder).mkdir()
    images, boxes, captions, pairs = [], [], [], []
    for i in range(6):
        width, height = rng.choice([(64, 48), (48, 64)])
        name, kinds = f"{i:012}.jpg", rng.sample(sorted(THINGS), 2)
        for folder in ("train", "test"):
            Image.frombytes("RGB", (width, height), rng.randbytes(3 * width * height)).save(top/folder/name)
        images.append({"id": i, "file_name": name, "width": width, "height": height})
        boxes += [{"image_id": i, "category_id": kind} for kind in kinds]
        captions.append({"image_id": i, "caption": CAPTION.format(*(THINGS[k] for k in kinds))})
        absent = next(k for k in THINGS if k not in kinds)
        turns = lambda answer: [{"from": "human", "value": "<image>\nDescribe this image in detail."},
                                {"from": "gpt", "value": answer}]
        pairs.append({"id": str(i), "image": name, "conversations": turns(captions[-1]["caption"]),
                      "rejected_conversations": turns(CAPTION.format(THINGS[kinds[0]], THINGS[absent]))})
    kinds = [{"id": i, "name": name} for i, name in THINGS.items()]
    (top/"instances.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": kinds}))
    (top/"captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    (top/"pairs.json").write_text(json.dumps(pairs))
    words = [space + word for word in ("Yes", "No", "yes", "no") for space in ("", " ")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "SENTENCES", tiny_models.SENTENCES + 3 * words)     # so that each is a token
        tiny_models.save("llava", top/"model")
    page = run(top/"run", model=str(top/"model"), data=str(top/"pairs.json"), images=str(top/"train"),
               test_images=str(top/"test"),
               annotations=(str(top/"instances.json"), str(top/"captions.json")), n=5, max_new_tokens=16, batch_size=2,
               train=dict(batch_size=2, max_steps=2, disable_tqdm=True))
    return top/"run", page.read_text()


def test_all_parts_of_the_report_are_there(made):
    folder, page = made
    found = json.loads((folder/"report.json").read_text())
    assert found.keys() >= {"base", "sft", "stage1", "stage2"} and list(found["base"]) == ["photos"]
    assert "could not be made" not in page
    assert all(title in page for title in ("What noise brings out", "Where it looks"))
    assert (folder/"shift").exists() and json.loads((folder/"shift"/"shift.json").read_text())["after"]


def test_all_given_pairs_were_used(made):
    folder, _ = made
    for stage in ("sft", "stage1", "stage2"):
        record = json.loads(next((folder/stage).glob("stage*/povid.json")).read_text())
        assert record["pairs"]["count"] == 6
    assert len((folder/"said"/"base"/"photos"/"captions.jsonl").read_text().splitlines()) == 5
