"""The whole method on tiny models of other architectures, with random weights: every step takes what they say,
however little it is"""
import json
import pytest
import tiny_models
from povid_nb.run import run


@pytest.fixture
def folder(request, tmp_path, monkeypatch):
    words = [space + word for word in ("Yes", "No", "yes", "no") for space in ("", " ")]
    monkeypatch.setattr(tiny_models, "SENTENCES", tiny_models.SENTENCES + 3 * words)     # so that each is a token
    tiny_models.load(request.param, tmp_path/"model")
    return tmp_path


def whole(folder, **options):
    page = run(folder/"run", model=str(folder/"model"), pairs=6, n=3, max_new_tokens=16, batch_size=2,
               train=dict(batch_size=2, max_steps=1, disable_tqdm=True), **options)
    return page.read_text(), json.loads((folder/"run"/"report.json").read_text())


@pytest.mark.parametrize("folder",
                         [pytest.param("llava_next", marks=pytest.mark.slow), "idefics3",
                          pytest.param("paligemma", marks=pytest.mark.slow)], indirect=True)
def test_the_whole_method_on_another_architecture(folder):
    page, made = whole(folder)
    assert {"base", "sft", "stage1", "stage2"} <= made.keys() and "What noise brings out" in page
    assert (folder/"run"/"stage2"/"adapter"/"adapter_model.safetensors").exists()


@pytest.mark.parametrize("folder", ["llava"], indirect=True)
def test_a_model_that_says_nothing_is_reported_as_such(folder, monkeypatch):
    "A collapsed model is what preference training can end in: the report must say so, not fail"
    from povid_nb.vlm import VLM
    monkeypatch.setattr(VLM, "describe",
                        lambda self, images, *others, **how: [""] * len(images) if isinstance(images, list) else "")
    page, made = whole(folder)
    assert made["base"]["counter"]["chair"]["silent"] == 1 and made["attention"] == {}
    assert "What noise brings out" in page and "the untouched model&#x27;s answers have no words" in page
