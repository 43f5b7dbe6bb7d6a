"A run of the model of real parts on COCO's photographs, from end to end: povid run --model real"
import importlib.util, json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from povid_nb import cli, parts

PHOTOS = Path(__file__).parents[2]/".."/"shared"/"data"/"photos"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    if not (PHOTOS/"coco128.jsonl").exists(): pytest.skip("COCO's first photographs are not in ../shared/data/photos")
    if any(importlib.util.find_spec(name) is None for name in parts._NEEDS): pytest.skip("needs povid_nb[real]")
    top = tmp_path_factory.mktemp("photographs")
    rows = [json.loads(line) for line in (PHOTOS/"coco128.jsonl").read_text().splitlines()]
    rows = [(Path(row["image"]).name, sorted({o["name"] for o in row["objects"]})) for row in rows]
    several = [(name, kinds) for name, kinds in rows if len(kinds) > 1]
    say = lambda kinds: " ".join(f"There is a {kind}." for kind in kinds)
    turns = lambda text: [{"from": "human", "value": "<image>\nDescribe this image."}, {"from": "gpt", "value": text}]
    pairs = [{"id": name, "image": name, "conversations": turns(say(kinds)),
              "rejected_conversations": turns(say([*kinds[1:], other[0]]))}
             for (name, kinds), (_, other) in zip(several, several[1:5]) if other[0] not in kinds]
    (top/"pairs.json").write_text(json.dumps(pairs))
    names = sorted({kind for _, kinds in rows for kind in kinds})
    (top/"instances.json").write_text(json.dumps({
        "images": [{"id": int(Path(name).stem), "file_name": name} for name, _ in rows],
        "annotations": [{"image_id": int(Path(name).stem), "category_id": names.index(kind)} for name, kinds in rows
                        for kind in kinds],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)]}))
    found = CliRunner().invoke(cli.app, [
        "run", "--model", "real", "--out", str(top/"run"), "--data", str(top/"pairs.json"), "--images",
        str(PHOTOS/"coco128"),
        "--test-images", str(PHOTOS/"coco128"), "--annotations", str(top/"instances.json"), "--n", "3",
        "--max-new-tokens", "24",
        "--batch-size", "3", "--set", "batch_size=2", "--set", "max_steps=1", "--set", "rank=4"])
    assert found.exit_code == 0, found.output
    return top/"run", len(pairs)


def test_all_models_described_the_photographs_and_are_in_the_report(made):
    folder, n = made
    found, page = json.loads((folder/"report.json").read_text()), (folder/"report.html").read_text()
    for who in ("base", "sft", "stage1", "stage2"):
        assert found[who]["photos"]["chair"]["recall"] <= 1
        said = (folder/"said"/who/"photos"/"captions.jsonl").read_text().splitlines()
        assert len(said) == 3 and all(json.loads(line)["caption"].startswith("The picture shows") for line in said)
    assert "could not be made" not in page
    assert json.loads(next((folder/"stage2").glob("stage*/povid.json")).read_text())["pairs"]["count"] == n
