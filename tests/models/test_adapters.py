"LoRA adapters: put on, switched off, and refused on a model they were not made for"
import json, shutil, sys
from pathlib import Path
import pytest, torch
from PIL import Image
from peft import LoraConfig, get_peft_model
from povid_nb.vlm import VLM

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models as tiny   # noqa: E402

IMAGE = Image.new("RGB", (32, 32), "red")


@pytest.fixture(scope="module", params=["llava", "idefics3"])
def trained(request, tmp_path_factory):
    "A saved model, an adapter for it that changes something, and the scores without and with it"
    base, folder = tiny.save(request.param, tmp_path_factory.mktemp("base")), tmp_path_factory.mktemp("adapter")
    vlm = VLM.load(base)
    plain = vlm.score(IMAGE, "What", "a red cup").token_logps
    part = vlm.paths()["language_model"].rsplit(".")[-1]
    torch.manual_seed(0)
    vlm.model = get_peft_model(vlm.model,
                               LoraConfig(r=4, lora_alpha=64, init_lora_weights=False,
                                          target_modules=rf".*{part}.*\.(q_proj|v_proj)"))
    changed = vlm.score(IMAGE, "What", "a red cup").token_logps
    assert (plain - changed).abs().max() > .01
    vlm.model.save_pretrained(folder)
    return base, folder, plain, changed


def test_an_adapter_is_put_on_and_switched_off(trained):
    base, folder, plain, changed = trained
    vlm = VLM.load(base, adapter=folder)
    score = lambda: vlm.score(IMAGE, "What", "a red cup").token_logps
    assert torch.equal(score(), changed)
    with vlm.adapter_off():
        assert torch.equal(score(), plain)
        assert vlm.describe(IMAGE, max_new_tokens=5) == VLM.load(base).describe(IMAGE, max_new_tokens=5)
    assert torch.equal(score(), changed)
    with pytest.raises(KeyError), vlm.adapter_off(): raise KeyError   # an error inside does not leave it off
    assert torch.equal(score(), changed)
    assert set(vlm.paths()) == set(VLM.load(base).paths()) and vlm.paths() == VLM.load(base).paths()
    assert "ForConditionalGeneration" in repr(vlm)


def test_no_adapter_to_switch_off(trained):
    with pytest.raises(ValueError, match="has no adapter that could be switched off; load one with VLM.load"):
        with VLM.load(trained[0]).adapter_off(): pass


def test_an_adapter_of_another_model(trained, tmp_path):
    base, folder, *_ = trained
    made_for = json.loads((folder/"adapter_config.json").read_text())["base_model_name_or_path"]
    assert made_for == str(base)
    other = tiny.save("paligemma", tmp_path/"other")
    with pytest.raises(ValueError,
                       match=f"was made for '{base}' and does not fit .*other: it changes a .*, this is a "
                             f"PaliGemma.*; load the model it was made for"):
        VLM.load(other, adapter=folder)


def test_an_adapter_of_the_same_class_and_another_size(tmp_path, monkeypatch):
    base, wider = tiny.save("llava", tmp_path/"base"), tmp_path/"wider"
    with monkeypatch.context() as m:
        m.setitem(tiny.SMALL, "hidden_size", 64)
        tiny.save("llava", wider)
    model = get_peft_model(VLM.load(wider).model, LoraConfig(r=4, target_modules=r".*language_model.*\.q_proj"))
    model.save_pretrained(tmp_path/"adapter")
    with pytest.raises(ValueError, match="does not fit .*base: .*q_proj is 64 wide there and 32 here"):
        VLM.load(base, adapter=tmp_path/"adapter")


def test_an_adapter_of_a_twin_is_put_on_with_a_word_of_warning(trained, tmp_path):
    base, folder, _, changed = trained
    shutil.copytree(base, tmp_path/"twin")
    with pytest.warns(UserWarning,
                      match=f"was made for '{base}'; it fits .*twin in size, but is only right if both are the "
                            f"same model"):
        vlm = VLM.load(tmp_path/"twin", adapter=folder)
    assert torch.equal(vlm.score(IMAGE, "What", "a red cup").token_logps, changed)


def test_folders_that_hold_no_adapter(trained, tmp_path):
    base, folder, *_ = trained
    with pytest.raises(FileNotFoundError, match="holds no adapter: adapter_config.json is missing"):
        VLM.load(base, adapter=tmp_path)
    shutil.copy(folder/"adapter_config.json", tmp_path)
    (tmp_path/"adapter_model.bin").write_bytes(b"pickle")   # never read
    with pytest.raises(FileNotFoundError, match="holds no adapter: adapter_model.safetensors is missing"):
        VLM.load(base, adapter=tmp_path)
