"Formats: TRL's messages, datasets, and one way in for all of them"
import json
from dataclasses import replace
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from povid_nb.formats import as_pairs, from_dataset, from_trl, load, to_dataset, to_trl
from povid_nb.pairs import Edit, Example, Pair, write
from povid_nb.pictures import open_image
from test_pairs import GOOD, QUICK, any_pair


@settings(QUICK, max_examples=15)
@given(st.lists(any_pair(), min_size=1, max_size=4))
def test_datasets_lose_nothing(several):
    rows = to_dataset(several)
    assert list(from_dataset(rows)) == several


def test_trl_takes_our_rows():
    "TRL's own function fills the picture in and accepts the messages"
    from trl.data_utils import is_conversational, prepare_multimodal_messages
    image = Image.new("RGB", (8, 8))
    row = to_trl(Pair(Example(image, "What is it?", "A cat.", image_at="end"), "A dog."))
    assert is_conversational(row)
    filled = prepare_multimodal_messages(row["prompt"], images=row["images"])
    assert [p["type"] for p in filled[0]["content"]] == ["text", "image"] and filled[0]["content"][1]["image"] is image
    stored = to_dataset([Pair(Example(image, "What is it?", "A cat."), "A dog.")])[0]
    assert prepare_multimodal_messages(stored["prompt"], images=stored["images"])[0]["content"][0]["image"].size == (8,
        8)
    assert prepare_multimodal_messages(stored["chosen"]) == stored["chosen"]


def test_trl_rows_with_plain_text():
    row = {"images": ["x.png"], "prompt": [{"role": "user", "content": "What is it?"}],
           "chosen": [{"role": "assistant", "content": "A cat."}],
           "rejected": [{"role": "assistant", "content": "A dog."}]}
    pair = from_trl(row)
    assert (pair.prompt, pair.chosen, pair.rejected, pair.image) == ("What is it?", "A cat.", "A dog.", "x.png")


def test_load_from_file_folder_and_disk(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path/"x.png")
    pair = Pair(Example(str(tmp_path/"x.png"), "What is it?", "A cat.", "7"), "A dog.", "attribute",
                [Edit("cat", "dog", "attribute", "looks alike")])
    write([pair], tmp_path/"rows"/"train.jsonl")
    to_dataset([pair]).save_to_disk(tmp_path/"disk")
    to_dataset([pair], inside=True).to_parquet(tmp_path/"parquet"/"train.parquet")
    assert list(load(tmp_path/"rows"/"train.jsonl")) == list(load(tmp_path/"rows")) == [pair]
    for where in ("disk", "parquet"):                                               # here the pictures travel inside
        inside = list(load(tmp_path/where))[0]
        assert open_image(inside.image).getpixel((0, 0)) == (255, 0, 0)
        assert replace(inside, example=replace(inside.example, image=pair.image)) == pair
    with pytest.raises(FileNotFoundError, match="cannot load 'nobody/nothing'"): load("nobody/nothing")


def test_load_passes_pairs_and_reads_datasets_of_plain_text():
    from datasets import Dataset
    pair = Pair(Example("x.png", "What?", "Right.", "1"), "Wrong.")
    assert list(load([pair])) == [pair]
    rows = Dataset.from_list([{"prompt": "<image>\nWhat is it?", "chosen": "A cat.", "rejected": "A dog.",
                               "image": "x.png"}])
    assert [(p.prompt, p.chosen, p.rejected, p.image)
            for p in as_pairs(rows)] == [("What is it?", "A cat.", "A dog.", "x.png")]


def test_load_reads_both_formats_of_one_file(tmp_path):
    pair = Pair(Example("x.png", "What?", "Right.", "1"), "Wrong.")
    Image.new("RGB", (4, 4)).save(tmp_path/"x.png")
    (tmp_path/"p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (GOOD, to_trl(pair), {"id": 1})))
    with pytest.warns(UserWarning,
                      match="1 of 3 rows .*neither rejected_conversations nor rejected among its keys: id"):
        assert [p.rejected for p in load(tmp_path/"p.jsonl")] == ["A dog.", "Wrong."]


@pytest.mark.parametrize("change, words", [
    ({"images": []}, "expected one image, found 0"), ({"images": ["a", "b"]}, "expected one image, found 2"),
    ({"images": None, "image": None}, "no picture: image is None"),
    ({"chosen": [{"role": "user", "content": "A"}]}, "the roles should be user and assistant in turn"),
    ({"rejected": [{"role": "assistant", "content": "A"}, {"role": "user", "content": "And?"},
                   {"role": "assistant", "content": "B"}]}, "do not ask the same")])
def test_bad_rows_of_trl(change, words):
    row = to_trl(Pair(Example("x.png", "What?", "Right.", "1"), "Wrong.")) | change
    with pytest.raises(ValueError, match=words): from_trl(row)


def test_one_bad_picture_inside_a_dataset(tmp_path):
    some = [Pair(Example(Image.new("RGB", (4, 4), c), "What?", "Right.", c), "Wrong.") for c in ("red", "blue")]
    dataset = to_dataset(some, inside=True)
    def spoil(row, at): return {"images": [{"path": None, "bytes": b"no picture"}] if at == 0 else row["images"]}
    from datasets import Image as ImageFeature, List
    raw = dataset.cast_column("images", List(ImageFeature(decode=False))).map(spoil, with_indices=True)
    with pytest.warns(UserWarning, match="1 of 2 rows .*the picture is not an image that Pillow can read"):
        assert [p.id for p in from_dataset(raw, aside=tmp_path/"bad.jsonl")] == ["blue"]


def test_many_pairs_stay_on_disk(tmp_path, monkeypatch):
    "The same pairs in the same order; slices and choices of them, too; the file goes with them"
    import gc, pickle
    from povid_nb import formats
    Image.new("RGB", (4, 4), "red").save(tmp_path/"x.png")
    some = [Pair(Example(Image.new("RGB", (4, 4), (i, 0, 0)) if i % 2 else str(tmp_path/"x.png"), f"What is {i}?",
                         "A cat.", str(i)), "A dog.", "logic", [Edit("cat", "dog")]) for i in range(7)]
    assert as_pairs(iter(some)) == some
    monkeypatch.setattr(formats, "_MANY", 3)
    found = as_pairs(iter(some))
    assert isinstance(found, formats._OnDisk) and len(found) == 7 and as_pairs(found) is found
    for a, b in zip(found, some, strict=True):
        assert (a.key, a.edits, a.kind) == (b.key, b.edits, b.kind)
        assert open_image(a.image).tobytes() == open_image(b.image).tobytes()
    assert [p.id for p in found[2:5]] == ["2", "3", "4"]
    assert [p.id for p in found[1:].take([0, 4])] == ["1", "5"]
    assert found[-1].id == "6"
    assert pickle.loads(pickle.dumps(found))[3].id == "3"                         # as the workers of a loader get it
    file = found.table.cache_files[0]["filename"]
    with open(file, "rb"): del found, a
    gc.collect()
    with pytest.raises(FileNotFoundError): open(file)


def test_memory_is_flat_however_many_pairs_there_are(tmp_path, monkeypatch):
    "What Python holds, for three times as many pairs"
    import tracemalloc
    from povid_nb import formats
    from povid_nb.train import pairs_digest
    monkeypatch.setattr(formats, "_MANY", 100)
    def held(n):
        rows = (Pair(Example("x.png", f"What is {i}?", "A cat. " * 20, str(i)), "A dog. " * 20) for i in range(n))
        tracemalloc.start()
        found = as_pairs(rows)
        assert pairs_digest(found)["count"] == n
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak
    held(1100)                                                                    # what is imported and kept once
    few, many = held(1100), held(3300)
    assert many < 1.3 * few
