"Loading and refusing: every message is read, and each rule has a case it would get wrong if it were another"
import importlib.util, json, sys, types
from pathlib import Path
import pytest, torch
from povid_nb import load
from povid_nb.vlm import VLM

sys.path.insert(0, str(Path(__file__).parents[1]/"models"))
import tiny_models as tiny   # noqa: E402


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in ("POVID_MODEL", "POVID_DTYPE"): monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tiny.save("llava", tmp_path_factory.mktemp("models")/"llava")


# ---- Where it runs --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("capability, dtype",
                         [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_a_card_gets_bfloat16_only_if_it_computes_it(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert load.pick_dtype(torch.device("cuda")) == dtype
    assert load.pick_dtype(torch.device("cuda"), "float32") == torch.float32 == load.pick_dtype(torch.device("cpu"))
    assert load.pick_dtype(torch.device("mps")) == torch.float16


@pytest.mark.parametrize("cuda, mps, device", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_best_device_that_is_there(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert load.pick_device().type == device and load.pick_device("cpu").type == "cpu"
    if not cuda:
        with pytest.raises(ValueError, match="device 'cuda' is not available to this torch"): load.pick_device("cuda")


def test_an_unknown_dtype():
    for wrong in ("float99", "nn", 16):
        with pytest.raises(ValueError, match="unknown dtype .*; use 'float32'"): VLM.load(dtype=wrong)


def test_four_bits_need_an_nvidia_card(folder, monkeypatch):
    with pytest.raises(ValueError, match="quantize='4bit' needs an NVIDIA GPU and this runs on cpu: leave it out"):
        VLM.load(folder, device="cpu", quantize="4bit")
    with pytest.raises(ValueError, match="quantize='8bit' is not known; use '4bit'"): VLM.load(folder, quantize="8bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        load._four_bits("4bit", torch.device("cuda"), torch.float16)


# ---- Models that cannot be loaded -----------------------------------------------------------------------------------

def one_line(error): return "\n" not in str(error.value)


def test_a_name_without_network():
    with pytest.raises(OSError,
                       match="cannot load the configuration of 'someone/some-vlm': it is neither a folder here nor "
                             "in the local cache, and the hub cannot be reached") as error:
        VLM.load("someone/some-vlm")
    assert one_line(error)


def test_folders_that_are_not_models(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such model folder: \./nowhere"): VLM.load("./nowhere")
    with pytest.raises(FileNotFoundError, match="no such model folder: a/b/c"): VLM.load("a/b/c")
    with pytest.raises(FileNotFoundError, match="holds no model: config.json is missing"): VLM.load(tmp_path)
    (tmp_path/"config.json").write_text("{broken")
    with pytest.raises(OSError, match="cannot load the configuration of .* not a valid JSON file") as error:
        VLM.load(tmp_path)
    assert one_line(error)
    (tmp_path/"config.json").write_text('{"model_type": "telepathy"}')
    with pytest.raises(ValueError, match="cannot load the configuration .*`telepathy`") as error: VLM.load(tmp_path)
    assert one_line(error)


def test_a_model_without_its_processor(tmp_path):
    model, processor = tiny.build("llava")
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="has a model but no processor .*processor.save_pretrained"):
        VLM.load(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)   # a tokenizer is not enough
    with pytest.raises(FileNotFoundError, match="has a model but no processor"): VLM.load(tmp_path)


def test_a_text_only_model(tmp_path):
    from transformers import LlamaConfig
    LlamaConfig().save_pretrained(tmp_path)
    said = "is a llama model, which takes no pictures with its text; choose a vision-language model"
    with pytest.raises(ValueError, match=said) as error:
        VLM.load(tmp_path)
    assert one_line(error)


def test_a_processor_that_needs_torchvision(tmp_path, monkeypatch):
    if importlib.util.find_spec("torchvision"): pytest.skip("torchvision is here")
    model, processor = tiny.build("qwen2_vl")
    for part in (model, processor.tokenizer, processor.image_processor): part.save_pretrained(tmp_path)
    config = json.loads((tmp_path/"preprocessor_config.json").read_text())
    (tmp_path/"preprocessor_config.json").write_text(json.dumps(config | {"processor_class": "Qwen2VLProcessor"}))
    with pytest.raises(ImportError,
                       match="needs torchvision, which is not installed: pip install torchvision") as error:
        VLM.load(tmp_path)
    assert one_line(error)


def test_weights_that_are_not_all_there(tmp_path):
    from safetensors.torch import load_file, save_file
    tiny.save("llava", tmp_path)
    weights = load_file(tmp_path/"model.safetensors")
    gone = next(key for key in weights if "projector" in key)
    save_file({key: w for key, w in weights.items() if key != gone}, tmp_path/"model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lack 1 tensors, among them .*projector.*: the file is incomplete"):
        VLM.load(tmp_path)


def test_the_built_in_model_by_either_name(monkeypatch, tmp_path):
    monkeypatch.setattr(load, "_built_in", lambda: tmp_path/"tiny")
    with pytest.raises(FileNotFoundError, match="the built-in model is not in .*tiny; make it with `povid pretrain`"):
        VLM.load()
    tiny.save("llava", tmp_path/"tiny")
    assert VLM.load().name == VLM.load("tiny").name == "tiny"


def test_the_environment_names_a_model_where_no_name_is_given(monkeypatch, folder, tmp_path):
    monkeypatch.setenv("POVID_MODEL", str(folder))
    assert load.find_model() == VLM.load().name == str(folder)
    assert Path(load.find_model("tiny")).name == "tiny" and VLM.load("tiny").name == "tiny"
    monkeypatch.setenv("POVID_MODEL", str(tmp_path/"nowhere"))
    with pytest.raises(FileNotFoundError, match="no such model folder: .*nowhere"): VLM.load()


def test_the_environment_gives_a_dtype_where_none_is_given(monkeypatch, folder):
    monkeypatch.setenv("POVID_DTYPE", "bfloat16")
    assert VLM.load(folder, device="cpu").dtype == VLM.load("tiny").dtype == torch.bfloat16
    assert VLM.load(folder, dtype="float32").dtype == torch.float32
    monkeypatch.setenv("POVID_DTYPE", "int4")
    with pytest.raises(ValueError,
                       match="unknown dtype 'int4' in POVID_DTYPE; use 'float32', 'bfloat16' or 'float16'"):
        VLM.load()


def test_the_built_in_model_takes_32_bits_on_any_device(monkeypatch, folder):
    "On a GPU every other model gets 16 bits; a device is made up here, and nothing moves to it"
    seen = {}
    def read(reader, source, what, **options):
        seen[source] = options.get("dtype")
        raise OSError("enough")
    monkeypatch.setattr(load, "_read", read)
    monkeypatch.setattr(load, "_read_config", lambda source: None)
    monkeypatch.setattr(load, "_read_processor", lambda source: None)
    monkeypatch.setattr(load, "pick_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for name in (None, "tiny", folder):
        with pytest.raises(OSError, match="enough"): VLM.load(name)
    assert list(seen.values()) == [torch.float32, torch.float16] and str(folder) in seen
    with pytest.raises(OSError, match="enough"): VLM.load("tiny", dtype="float16")
    assert list(seen.values()) == [torch.float16, torch.float16]





# ---- What the libraries below say -----------------------------------------------------------------------------------

def reader(error):
    def from_pretrained(source, **options): raise error
    return types.SimpleNamespace(from_pretrained=from_pretrained)


def test_a_gated_model():
    error = OSError("You are trying to access a gated repo.\nMake sure to have access to it at "
                    "https://huggingface.co/google/x.\n401 Client Error.")
    with pytest.raises(OSError,
                       match="cannot load the weights of 'google/x': its owner asks for a licence first: accept it "
                             ".* `hf auth login`") as caught:
        load._read(reader(error), "google/x", "weights")
    assert one_line(caught)


def test_other_missing_packages_are_named_as_they_are():
    with pytest.raises(ImportError, match="No module named 'num2words'"):
        load._read(reader(ImportError("No module named 'num2words'")), "a/b", "processor")


# ---- Code in a model's folder ---------------------------------------------------------------------------------------

def with_code(folder, ran, file, change):
    "A model's folder whose settings point at a Python file that leaves a trace when it runs"
    tiny.save("llava", folder)
    (folder/"their_code.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise ImportError('ran')")
    settings = json.loads((folder/file).read_text())
    (folder/file).write_text(json.dumps(settings | change))
    return folder


@pytest.mark.parametrize("file, change", [
    ("config.json",
     {"model_type": "theirs",
      "auto_map": {"AutoConfig": "their_code.C", "AutoModelForImageTextToText": "their_code.M"}}),
    ("processor_config.json", {"processor_class": "TheirProcessor", "auto_map": {"AutoProcessor": "their_code.P"}}),
    ("config.json", {"auto_map": {"AutoConfig": "their_code.C", "AutoModelForImageTextToText": "their_code.M"}})])
@pytest.mark.parametrize("typed", ["y\n", ""])
def test_code_in_a_models_folder_never_runs(tmp_path, monkeypatch, capsys, file, change, typed):
    "Not even where standard input says yes, and without a question"
    import io
    folder = with_code(tmp_path/"model", tmp_path/"ran", file, change)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    try: VLM.load(folder)
    except (OSError, ValueError) as error:
        assert "it needs Python code from its own folder, which is never run here" in str(error)
        assert "\n" not in str(error)
    assert not (tmp_path/"ran").exists() and "[y/N]" not in "".join(capsys.readouterr())


def test_weights_that_are_no_weights(tmp_path):
    tiny.save("llava", tmp_path)
    (tmp_path/"model.safetensors").write_bytes(b"not what it should be")
    with pytest.raises(ValueError, match="cannot load the weights of") as error: VLM.load(tmp_path)
    assert one_line(error)


@pytest.mark.parametrize("kind, said", [
    (OSError, "Could not load it. Idefics3ImageProcessor requires the Torchvision library but it was not found."),
    (ImportError, "No torchvision"),
    (ValueError,
     "Unrecognized image processor in a/b. Should have a `image_processor_type` key in its preprocessor_config.json")])
def test_a_processor_that_names_torchvision_among_other_things(monkeypatch, kind, said):
    "Some versions of transformers bury it in the second sentence, and older ones do not name it"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError,
                       match="the processor of 'a/b' needs torchvision, which is not installed: pip install "
                             "torchvision"):
        load._read(reader(kind(said)), "a/b", "processor")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(kind): load._read(reader(kind(said)), "a/b", "processor")


# ---- A square picture -----------------------------------------------------------------------------------------------

def test_pictures_are_padded_to_a_square_where_they_would_be_cut(folder):
    import numpy as np
    from PIL import Image
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8))
    cut, padded = VLM.load(folder, "cpu"), VLM.load(folder, "cpu", square=True)
    eye = cut.processor.image_processor
    mean = tuple(round(255 * m) for m in eye.image_mean)
    by_hand = Image.new("RGB", (64, 64), mean)
    by_hand.paste(wide, (0, 16))
    pixels = lambda vlm, picture: vlm.inputs(picture, "What")["pixel_values"]
    assert pixels(padded, wide).shape == pixels(cut, wide).shape
    assert (pixels(padded, wide) - pixels(cut, by_hand)).abs().max() < .05, "bytes of the mean colour are rounded"
    assert (pixels(padded, wide) - pixels(cut, wide)).abs().max() > .5, "cut, not padded"
    assert torch.equal(pixels(padded, by_hand), pixels(cut, by_hand)), "a square picture stays as it is"


def test_a_processor_that_does_not_cut_has_nothing_to_pad(tmp_path):
    with pytest.raises(ValueError, match="square=True is for a processor that cuts pictures"):
        VLM.load(tiny.save("idefics3", tmp_path), "cpu", square=True)
