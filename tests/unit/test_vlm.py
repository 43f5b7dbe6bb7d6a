"The small rules of `vlm`: every message is read, and each rule has a case it would get wrong if it were another"
import random, sys, types
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


# ---- Models that cannot be used -------------------------------------------------------------------------------------

def test_a_processor_of_another_model():
    model, _ = tiny.build("llava")
    _, other = tiny.build("llava")
    other.image_token_id = 7
    with pytest.raises(ValueError, match="the processor writes image token 7, the model reads 4"): VLM(model, other)


def test_a_template_that_forgets_the_picture(vlm, image, monkeypatch):
    monkeypatch.setattr(vlm.processor, "chat_template",
                        "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{{ c['text'] }}{% endfor "
                        "%}{% endfor %}")
    with pytest.raises(ValueError, match="left the picture out of the prompt"): vlm.describe(image)


# ---- Images and prompts that cannot be read -------------------------------------------------------------------------

def test_an_image_may_be_a_picture_a_path_or_a_scene(vlm, image, tmp_path):
    image.save(tmp_path/"a.png")
    scene = types.SimpleNamespace(image=lambda: image)
    grey, rgba, palette = image.convert("L"), image.convert("RGBA"), image.convert("P")
    expected = vlm.inputs(image, "What")["pixel_values"]
    for same in (tmp_path/"a.png", str(tmp_path/"a.png"), scene, rgba):
        assert torch.equal(vlm.inputs(same, "What")["pixel_values"], expected)
    for other in (grey, palette): assert vlm.inputs(other, "What")["pixel_values"].shape == expected.shape


def test_images_that_cannot_be_read(vlm, image, tmp_path):
    (tmp_path/"text.png").write_text("hello")
    image.save(tmp_path/"whole.png")
    (tmp_path/"cut.png").write_bytes((tmp_path/"whole.png").read_bytes()[:1500])
    with pytest.raises(FileNotFoundError, match="no image file at .*none.png"): vlm.describe(tmp_path/"none.png")
    with pytest.raises(FileNotFoundError, match="no image file at"): vlm.describe(tmp_path)
    with pytest.raises(ValueError, match="text.png is not an image that Pillow can read"):
        vlm.describe(tmp_path/"text.png")
    with pytest.raises(ValueError, match="cut.png is not an image that Pillow can read .or it is cut short"):
        vlm.describe(tmp_path/"cut.png")
    with pytest.raises(TypeError, match="expected a picture .*, got int"): vlm.describe([3])


@pytest.mark.parametrize("verb", ["describe", "score"])
def test_a_bad_row_is_found_before_any_work(vlm, image, tmp_path, verb, monkeypatch):
    monkeypatch.setattr(vlm.model, "forward", lambda *args, **kwargs: pytest.fail("work was begun"))
    monkeypatch.setattr(vlm, "_prompt_inputs", lambda *args, **kwargs: pytest.fail("work was begun"))
    run = {"describe": vlm.describe, "score": lambda images, prompts: vlm.score(images, prompts, "no")}[verb]
    with pytest.raises(FileNotFoundError): run([image] * 40 + [tmp_path/"none.png"], "What")
    with pytest.raises(TypeError, match="expected a picture .*, got int"): run([image] * 40 + [3], "What")
    with pytest.raises(ValueError, match="prompts 40 is empty"): run(image, ["What"] * 40 + [" "])
    with pytest.raises(ValueError, match="prompts 0 contains '<image>', which stands for the picture: leave it out"):
        run(image, "<image>\nWhat")
    with pytest.raises(TypeError, match="prompts 1 should be a text, got NoneType"): run(image, ["What", None])
    with pytest.raises(ValueError, match="got 3 images and 2 prompts: give as many of each, or a single one for all"):
        run([image] * 3, ["What"] * 2)
    with pytest.raises(ValueError, match="no image was given"): run(None, "What")


def test_answers_that_cannot_be_scored(vlm, image):
    with pytest.raises(ValueError, match="answers 1 is empty"): vlm.score(image, "What", ["no", ""])
    with pytest.raises(ValueError, match="answers 0 contains '<image>'"):
        vlm.score(image, "What", "an <image> of a cat")
    with pytest.raises(ValueError, match="got 2 prompts and 3 answers"): vlm.score(image, ["What"] * 2, ["no"] * 3)
    with pytest.raises(ValueError, match="no image was given"): vlm.next_tokens(None)
    with pytest.raises(ValueError, match="temperature is -1"): vlm.describe(image, temperature=-1)


def test_single_in_single_out(vlm, image):
    few = dict(max_new_tokens=2)
    assert isinstance(vlm.describe(image, **few), str)
    assert len(vlm.describe([image], **few)) == 1
    assert vlm.describe([], **few) == []
    assert isinstance(vlm.describe(image, "What", **few), str)
    assert len(vlm.describe(image, ["What", "Who", "Why"], **few)) == 3
    assert vlm.score(image, "What", "no").logps < 0
    assert len(vlm.score([image, image], "What", "no")) == 2
    assert vlm.score([], "What", "no") == []


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 5), which=st.sets(st.sampled_from(["images", "prompts", "answers"])))
def test_single_ones_are_repeated(n, which):
    picture = Image.new("RGB", (2, 2))
    rows, single = module._line_up([picture] * n if "images" in which else picture,
                                  prompts=["p"] * n if "prompts" in which else "p",
                                   answers=("a",) * n if "answers" in which else "a")
    assert single == (not which)
    assert {len(v) for v in rows.values()} == {n if which else 1}


# ---- Where one text ends and the next begins ------------------------------------------------------------------------

def test_tokens_over_the_border(vlm):
    assert vlm.tokenizer.convert_ids_to_tokens(vlm.tokens_after("a red", " fork")) == ["▁fork"]
    with pytest.raises(ValueError,
                       match=r"'rk' cannot be told apart from what stands before it \(\.\.\.'a fo'\): one token "
                             r"reaches over the border"):
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
    with pytest.raises(ValueError,
                       match="has no part 'ears'; the parts are: tower, projector, language_model, lm_head"):
        vlm.part("ears")
