"Loading, refusing, and the small rules of `vlm`: every message is read, and each rule has a case it would get wrong if it were another"
import json, math, random, sys, types
from pathlib import Path
import pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from povid_nb import vlm as module
from povid_nb.vlm import VLM

sys.path.insert(0, str(Path(__file__).parents[1]/"models"))
import tiny_models as tiny   # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return tiny.save("llava", tmp_path_factory.mktemp("models")/"llava")


@pytest.fixture(scope="module")
def vlm(folder): return VLM.load(folder)


@pytest.fixture
def image(): return Image.frombytes("RGB", (40, 30), random.Random(0).randbytes(3600))


# ---- Where it runs ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("capability, dtype", [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)])
def test_a_card_gets_bfloat16_only_if_it_computes_it(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert module.pick_dtype(torch.device("cuda")) == dtype
    assert module.pick_dtype(torch.device("cuda"), "float32") == torch.float32 == module.pick_dtype(torch.device("cpu"))
    assert module.pick_dtype(torch.device("mps")) == torch.float16


@pytest.mark.parametrize("cuda, mps, device", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_best_device_that_is_there(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert module.pick_device().type == device and module.pick_device("cpu").type == "cpu"
    if not cuda:
        with pytest.raises(ValueError, match="device 'cuda' is not available to this torch"): module.pick_device("cuda")


def test_an_unknown_dtype(): 
    for wrong in ("float99", "nn", 16):
        with pytest.raises(ValueError, match="unknown dtype .*; use 'float32'"): VLM.load(dtype=wrong)


def test_four_bits_need_an_nvidia_card(folder, monkeypatch):
    with pytest.raises(ValueError, match="quantize='4bit' needs an NVIDIA GPU and this runs on cpu: leave it out"): VLM.load(folder, device="cpu", quantize="4bit")
    with pytest.raises(ValueError, match="quantize='8bit' is not known; use '4bit'"): VLM.load(folder, quantize="8bit")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"): module.four_bits("4bit", torch.device("cuda"), torch.float16)


# ---- Models that cannot be loaded ------------------------------------------------------------------------------------

def one_line(error): return "\n" not in str(error.value)


def test_a_name_without_network():
    with pytest.raises(OSError, match="cannot load the configuration of 'someone/some-vlm': it is neither a folder here nor in the local cache, and the hub cannot be reached") as error:
        VLM.load("someone/some-vlm")
    assert one_line(error)


def test_folders_that_are_not_models(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such model folder: \./nowhere"): VLM.load("./nowhere")
    with pytest.raises(FileNotFoundError, match="no such model folder: a/b/c"): VLM.load("a/b/c")
    with pytest.raises(FileNotFoundError, match="holds no model: config.json is missing"): VLM.load(tmp_path)
    (tmp_path/"config.json").write_text("{broken")
    with pytest.raises(OSError, match="cannot load the configuration of .* not a valid JSON file") as error: VLM.load(tmp_path)
    assert one_line(error)
    (tmp_path/"config.json").write_text('{"model_type": "telepathy"}')
    with pytest.raises(ValueError, match="cannot load the configuration .*`telepathy`") as error: VLM.load(tmp_path)
    assert one_line(error)


def test_a_model_without_its_processor(tmp_path):
    model, processor = tiny.build("llava")
    model.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="has a model but no processor .*processor.save_pretrained"): VLM.load(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)   # a tokenizer is not enough
    with pytest.raises(FileNotFoundError, match="has a model but no processor"): VLM.load(tmp_path)


def test_a_text_only_model(tmp_path):
    from transformers import LlamaConfig
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a llama model, which takes no pictures with its text; choose a vision-language model") as error: VLM.load(tmp_path)
    assert one_line(error)


def test_a_processor_that_needs_torchvision(tmp_path, monkeypatch):
    if module.importlib.util.find_spec("torchvision"): pytest.skip("torchvision is here")
    model, processor = tiny.build("qwen2_vl")
    for part in (model, processor.tokenizer, processor.image_processor): part.save_pretrained(tmp_path)
    config = json.loads((tmp_path/"preprocessor_config.json").read_text())
    (tmp_path/"preprocessor_config.json").write_text(json.dumps(config | {"processor_class": "Qwen2VLProcessor"}))
    with pytest.raises(ImportError, match="needs torchvision, which is not installed: pip install torchvision") as error: VLM.load(tmp_path)
    assert one_line(error)


def test_weights_that_are_not_all_there(tmp_path):
    from safetensors.torch import load_file, save_file
    tiny.save("llava", tmp_path)
    weights = load_file(tmp_path/"model.safetensors")
    gone = next(key for key in weights if "projector" in key)
    save_file({key: w for key, w in weights.items() if key != gone}, tmp_path/"model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lack 1 tensors, among them .*projector.*: the file is incomplete"): VLM.load(tmp_path)


def test_a_processor_of_another_model():
    model, _ = tiny.build("llava")
    _, other = tiny.build("llava")
    other.image_token_id = 7
    with pytest.raises(ValueError, match="the processor writes image token 7, the model reads 4"): VLM(model, other)


def test_a_template_that_forgets_the_picture(vlm, image, monkeypatch):
    monkeypatch.setattr(vlm.processor, "chat_template", "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{{ c['text'] }}{% endfor %}{% endfor %}")
    with pytest.raises(ValueError, match="left the picture out of the prompt"): vlm.describe(image)


def test_the_built_in_model_by_either_name(monkeypatch, tmp_path):
    monkeypatch.setattr(module.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match="the built-in model is not in .*tiny; make it with `povid pretrain`"): VLM.load()
    tiny.save("llava", tmp_path/"tiny")
    assert VLM.load().name == VLM.load("tiny").name == "tiny"


# ---- Images and prompts that cannot be read --------------------------------------------------------------------------

def test_an_image_may_be_a_picture_a_path_or_a_scene(vlm, image, tmp_path):
    image.save(tmp_path/"a.png")
    scene = types.SimpleNamespace(image=lambda: image)
    grey, rgba, palette = image.convert("L"), image.convert("RGBA"), image.convert("P")
    expected = vlm.inputs(image, "What")["pixel_values"]
    for same in (tmp_path/"a.png", str(tmp_path/"a.png"), scene, rgba): assert torch.equal(vlm.inputs(same, "What")["pixel_values"], expected)
    for other in (grey, palette): assert vlm.inputs(other, "What")["pixel_values"].shape == expected.shape


def test_images_that_cannot_be_read(vlm, image, tmp_path):
    (tmp_path/"text.png").write_text("hello")
    image.save(tmp_path/"whole.png")
    (tmp_path/"cut.png").write_bytes((tmp_path/"whole.png").read_bytes()[:1500])
    with pytest.raises(FileNotFoundError, match="no image file at .*none.png"): vlm.describe(tmp_path/"none.png")
    with pytest.raises(FileNotFoundError, match="no image file at"): vlm.describe(tmp_path)
    with pytest.raises(ValueError, match="text.png is not an image that Pillow can read"): vlm.describe(tmp_path/"text.png")
    with pytest.raises(ValueError, match="cut.png is not an image that Pillow can read .or it is cut short"): vlm.describe(tmp_path/"cut.png")
    with pytest.raises(TypeError, match="expected a picture .*, got int"): vlm.describe([3])


@pytest.mark.parametrize("verb", ["describe", "answer", "score"])
def test_a_bad_row_is_found_before_any_work(vlm, image, tmp_path, verb, monkeypatch):
    monkeypatch.setattr(vlm.model, "forward", lambda *args, **kwargs: pytest.fail("work was begun"))
    monkeypatch.setattr(vlm, "prompt_inputs", lambda *args, **kwargs: pytest.fail("work was begun"), raising=False)
    run = {"describe": vlm.describe, "answer": vlm.answer, "score": lambda images, prompts: vlm.score(images, prompts, "no")}[verb]
    with pytest.raises(FileNotFoundError): run([image] * 40 + [tmp_path/"none.png"], "What")
    with pytest.raises(TypeError, match="expected a picture .*, got int"): run([image] * 40 + [3], "What")
    with pytest.raises(ValueError, match="prompts 40 is empty"): run(image, ["What"] * 40 + [" "])
    with pytest.raises(ValueError, match="prompts 0 contains '<image>', which stands for the picture: leave it out"): run(image, "<image>\nWhat")
    with pytest.raises(TypeError, match="prompts 1 should be a text, got NoneType"): run(image, ["What", None])
    with pytest.raises(ValueError, match="got 3 images and 2 prompts: give as many of each, or a single one for all"): run([image] * 3, ["What"] * 2)
    with pytest.raises(ValueError, match="no image was given"): run(None, "What")


def test_answers_that_cannot_be_scored(vlm, image):
    with pytest.raises(ValueError, match="answers 1 is empty"): vlm.score(image, "What", ["no", ""])
    with pytest.raises(ValueError, match="answers 0 contains '<image>'"): vlm.score(image, "What", "an <image> of a cat")
    with pytest.raises(ValueError, match="got 2 prompts and 3 answers"): vlm.score(image, ["What"] * 2, ["no"] * 3)
    with pytest.raises(ValueError, match="no image was given"): vlm.next_tokens(None)
    with pytest.raises(ValueError, match="temperature is -1"): vlm.describe(image, temperature=-1)


def test_single_in_single_out(vlm, image):
    few = dict(max_new_tokens=2)
    assert isinstance(vlm.describe(image, **few), str) and len(vlm.describe([image], **few)) == 1 and vlm.describe([], **few) == []
    assert isinstance(vlm.answer(image, "What", **few), str) and len(vlm.answer(image, ["What", "Who", "Why"], **few)) == 3
    assert vlm.score(image, "What", "no").logps < 0 and len(vlm.score([image, image], "What", "no")) == 2 and vlm.score([], "What", "no") == []


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 5), which=st.sets(st.sampled_from(["images", "prompts", "answers"])))
def test_single_ones_are_repeated(n, which):
    picture = Image.new("RGB", (2, 2))
    rows, single = module.line_up([picture] * n if "images" in which else picture,
                                  prompts=["p"] * n if "prompts" in which else "p", answers=("a",) * n if "answers" in which else "a")
    assert single == (not which)
    assert {len(v) for v in rows.values()} == {n if which else 1}


# ---- Where one text ends and the next begins -------------------------------------------------------------------------

def test_tokens_over_the_border(vlm):
    assert vlm.tokenizer.convert_ids_to_tokens(vlm.tokens_after("a red", " fork")) == ["▁fork"]
    with pytest.raises(ValueError, match=r"'rk' cannot be told apart from what stands before it \(\.\.\.'a fo'\): one token reaches over the border"):
        vlm.tokens_after("a fo", "rk")


def test_an_answer_in_any_script_comes_back_whole(vlm, image):
    for answer in ["a fork", "naïve Übermut 🦊 狐", "</s> is an end", "  spaces around  ", "two\nlines"]:
        batch = vlm.inputs(image, "What", answer)
        ids = batch["input_ids"][batch["answer_mask"]]
        assert vlm.tokenizer.decode(ids[:-1]).strip() == answer.strip() and ids[-1] == vlm.end_id()


def test_what_stands_between_prompt_and_answer_is_read_off_the_template(vlm, monkeypatch):
    assert vlm.between() == " " and vlm.text("Hi").endswith("ASSISTANT:")
    for template, between in [(tiny.QWEN_TEMPLATE, ""), (tiny.IDEFICS_TEMPLATE, " "),
                              (tiny.LLAVA_TEMPLATE.replace("ASSISTANT: ", "ASSISTANT:\n\n"), "\n\n")]:
        monkeypatch.setattr(vlm.processor, "chat_template", template)
        assert vlm.between() == between


@pytest.mark.parametrize("stops, end", [(2, 2), ([2, 7], 2), ([7, 2], 2), ([7, 8], 7), (7, 7), (None, 2)])
def test_the_end_token_is_one_that_the_model_stops_at(vlm, monkeypatch, stops, end):
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", stops)
    assert vlm.tokenizer.eos_token_id == 2 and vlm.end_id() == end


def test_a_part_that_is_not(vlm):
    with pytest.raises(ValueError, match="has no part 'ears'; the parts are: tower, projector, language_model, lm_head"): vlm.part("ears")


# ---- Words -----------------------------------------------------------------------------------------------------------

SCRIPT = {"": {"▁be": .4, "▁fork": .3, "</s>": .1, "▁": .08, ".": .02, "<0xC3>": .01},
          "▁be": {"n": .9}, "▁be n": {"c": .8}, "▁be n c": {"h": .7}, "▁be n c h": {"▁and": .6, "y": .3},
          "▁fork": {"▁and": .5, "y": .4}, "</s>": {"y": .9}, ".": {"y": .9},
          "▁": {"f": .5}, "▁ f": {"o": .5}, "▁ f o": {"r": .5}, "▁ f o r": {"k": .5}, "▁ f o r k": {".": .9},
          "<0xC3>": {"<0xBC>": .6}, "<0xC3> <0xBC>": {"▁and": .9}}


@pytest.fixture
def scripted(vlm, monkeypatch):
    "A model whose every guess is written above"
    def after(self, batch, paths):
        out = []
        for path in paths:
            logps = torch.full((len(vlm.tokenizer),), -30.)
            for token, prob in SCRIPT[" ".join(vlm.tokenizer.convert_ids_to_tokens(path))].items():
                logps[vlm.tokenizer.convert_tokens_to_ids(token)] = math.log(prob)
            out.append(logps)
        return out
    monkeypatch.setattr(VLM, "after", after)
    return vlm


def test_pieces_grow_into_words_and_two_spellings_add_up(scripted):
    found = {w.text: w.prob for w in scripted.likely_words({}, [], 6)}
    assert found == pytest.approx({"bench": .4 * .9 * .8 * .7, "fork": .3 + .08 * .5**4, "</s>": .1, ".": .02, "ü": .01 * .6}, rel=1e-4)
    assert list(found) == sorted(found, key=found.get, reverse=True)


def test_given_words_follow_the_chain_rule(scripted):
    pieces = [scripted.tokenizer.convert_tokens_to_ids(word) for word in (["▁be", "n", "c", "h"], ["▁fork"], ["▁", "f", "o"])]
    assert scripted.words_after({}, [], pieces) == pytest.approx([.4 * .9 * .8 * .7, .3, .08 * .5 * .5], rel=1e-4)


def test_a_prefix_may_end_in_a_space(vlm, image):
    a, b = (vlm.next_tokens(image, prefix=prefix, words=["fork", "."]) for prefix in ("There is a", "There is a "))
    assert a == b and vlm.next_tokens(image, prefix="There is a", words="fork") == a[:1] and vlm.next_tokens(image, words=[]) == []


# ---- What the libraries below say ------------------------------------------------------------------------------------

def reader(error):
    def from_pretrained(source, **options): raise error
    return types.SimpleNamespace(from_pretrained=from_pretrained)


def test_a_gated_model():
    error = OSError("You are trying to access a gated repo.\nMake sure to have access to it at https://huggingface.co/google/x.\n401 Client Error.")
    with pytest.raises(OSError, match="cannot load the weights of 'google/x': its owner asks for a licence first: accept it .* `hf auth login`") as caught:
        module.read(reader(error), "google/x", "weights")
    assert one_line(caught)


def test_other_missing_packages_are_named_as_they_are():
    with pytest.raises(ImportError, match="No module named 'num2words'"): module.read(reader(ImportError("No module named 'num2words'")), "a/b", "processor")


# ---- The exercise ----------------------------------------------------------------------------------------------------

def reference(logits, input_ids, answer_mask):
    logps = logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0]
    return (logps * answer_mask[:, 1:]).sum(1)


def unshifted(logits, input_ids, answer_mask): return (logits.log_softmax(-1).gather(-1, input_ids[..., None])[..., 0] * answer_mask).sum(1)


def test_the_exercise_accepts_its_solution_and_explains_mistakes():
    from povid_nb import check
    check.answer_logps(reference)
    with pytest.raises(AssertionError, match="the shift is missing"): check.answer_logps(unshifted)
    with pytest.raises(AssertionError, match="this is the mean"): check.answer_logps(lambda l, i, m: reference(l, i, m) / m.sum(1))
    with pytest.raises(AssertionError, match="row 0, 3 answer tokens"): check.answer_logps(lambda l, i, m: reference(l, i, torch.ones_like(m)))
    with pytest.raises(AssertionError, match="returned None"): check.answer_logps(lambda *given: None)
