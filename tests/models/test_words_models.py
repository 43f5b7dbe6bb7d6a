"""The engine for whole words on five real classes: what it computes, and how many rows, tokens and pictures it
takes to do so"""
import contextlib
import numpy as np, pytest, torch
import tiny_models as tiny
from PIL import Image
from povid_nb import shift, words
from povid_nb.vlm import VLM

PROMPT = "Describe this image."
PREFIXES = ["", "There is a", "There is a red fork", "the dog and the", "the dog and the bench are under a"]
WORDS = ["fork", "knife", "bench", "spoons", "Übermut"]     # one piece, and up to eight


def picture(seed, size=(90, 60)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES + tiny.WITH_TORCHVISION)
def vlm(request): return tiny.load(request.param)


def ready(vlm, n=3):
    "A batch of n pictures, and the token ids of contexts and words"
    batch = vlm.inputs([picture(i) for i in range(n)], [PROMPT] * n)
    contexts = [words._spell(vlm, PROMPT, prefix, [])[0] for prefix in PREFIXES]
    return batch, contexts, words._spell(vlm, PROMPT, PREFIXES[1], WORDS)[1]


@contextlib.contextmanager
def counted(vlm):
    """What runs inside: the shapes [rows, tokens] of every pass of the language model, and the rows of pixels of
    the tower"""
    passes, encoded = [], []
    def language(module, args, kwargs): passes.append(tuple(kwargs["inputs_embeds"].shape[:2]))
    def tower(module, args, kwargs):
        values = args[0] if args else kwargs["pixel_values"]
        encoded.append(len(values))
    hooks = [vlm.part("language_model").register_forward_pre_hook(language, with_kwargs=True),
             vlm.part("tower").register_forward_pre_hook(tower, with_kwargs=True)]
    try: yield passes, encoded
    finally:
        for hook in hooks: hook.remove()


def naive(vlm, batch, contexts, pieces):
    "One row at a time, pixels and all, a pass for every piece of every word"
    probs = torch.ones(len(contexts), len(batch["input_ids"]), len(pieces), dtype=torch.double)
    for c, context in enumerate(contexts):
        for i in range(len(batch["input_ids"])):
            for w, word in enumerate(pieces):
                for n, piece in enumerate(word):
                    row = vlm.append(vlm.rows(batch, [i]), [list(context + word[:n])])
                    del row["answer_mask"]
                    with torch.no_grad(): logits = vlm.model(**row).logits[0, -1]
                    probs[c, i, w] *= float(logits.double().softmax(-1)[piece])
    return probs


def test_equal_to_one_row_at_a_time(vlm):
    batch, contexts, pieces = ready(vlm)
    assert max(map(len, pieces)) > 3 and min(map(len, pieces)) == 1
    expected = naive(vlm, batch, contexts, pieces)
    assert (expected.std(1) > 0).any()                                        # the pictures matter
    for bound in (32_768, 120):
        probs, tokens = words.word_probs(vlm, batch, contexts, pieces, bound)
        torch.testing.assert_close(probs.double(), expected, rtol=1e-3, atol=1e-12)
        for c, logps in enumerate(words.next_logps(vlm, batch, contexts, bound)):
            torch.testing.assert_close(tokens[c], logps, atol=1e-4, rtol=0)


def test_each_picture_is_encoded_once_and_no_pass_exceeds_the_bound(vlm):
    batch, contexts, pieces = ready(vlm)
    values = batch["pixel_values"]
    fields = {2: len(values) // 3, 4: 1, 5: values.shape[1]}[values.dim()]    # Qwen's patches; one square; tiles
    longest = batch["input_ids"].shape[1] + max(map(len, contexts)) + max(map(len, pieces))
    for bound in (32_768, max(120, longest)):
        with counted(vlm) as (passes, encoded): words.word_probs(vlm, batch, contexts, pieces, bound)
        assert sum(encoded) == 3 * fields
        assert max(rows * tokens for rows, tokens in passes) <= bound
        paths = words._longest([c + p[:n] for c in contexts for p in pieces for n in range(len(p))])
        assert sum(rows for rows, _ in passes) == 3 * len(paths)              # no row that another one contains
    assert len(passes) > 3


def test_words_that_begin_improbably_cost_no_rows(vlm):
    batch, contexts, pieces = ready(vlm)
    with counted(vlm) as (all_rows, _): exact, tokens = words.word_probs(vlm, batch, contexts, pieces)
    begins = torch.stack([tokens[..., word[0]] for word in pieces], -1).exp()
    least = begins[..., [len(word) > 1 for word in pieces]].quantile(.9).item()
    with counted(vlm) as (rows, encoded): found, same = words.word_probs(vlm, batch, contexts, pieces, least=least)
    followed = found > 0
    torch.testing.assert_close(found[followed], exact[followed], rtol=1e-3, atol=1e-12)
    torch.testing.assert_close(same, tokens, rtol=0, atol=1e-4)
    assert (exact[~followed] <= least).all() and 0 < followed.sum() < followed.numel()
    assert followed[..., [len(word) == 1 for word in pieces]].all()           # nothing more is to be asked for these
    assert sum(n for n, _ in rows) < sum(n for n, _ in all_rows) and sum(encoded) > 0


def test_likely_words_encode_their_picture_once(vlm):
    batch, contexts, _ = ready(vlm, 1)
    with counted(vlm) as (passes, encoded): found = words.likely_words(vlm, batch, contexts[1], 5)
    assert len(encoded) == 1 and len(passes) > 1 and len(found) >= 2
    with counted(vlm) as (passes, encoded): vlm.next_tokens(picture(0), PROMPT, PREFIXES[1], words=WORDS)
    assert len(encoded) == 1 and len(passes) == 1


def test_nothing_is_put_behind_an_image_token(vlm):
    """A random model finds the image token likely; behind it the number of image tokens would no longer fit the
    pictures"""
    batch, contexts, _ = ready(vlm, 1)
    found = words.likely_words(vlm, batch, contexts[1], len(vlm.tokenizer), longest=2)
    image = vlm.tokenizer.decode([vlm.image_token_id])
    expected = words.next_logps(vlm, batch, [contexts[1]])[0][0, vlm.image_token_id].exp().item()
    assert {word.text: word.prob for word in found}[image] == pytest.approx(expected, rel=1e-3)


def test_a_model_that_takes_no_features_back_gives_the_same(vlm, monkeypatch):
    "Each row then encodes its picture, and the tower stays within the bound, too"
    batch, contexts, pieces = ready(vlm)
    expected = words.word_probs(vlm, batch, contexts, pieces)[0]
    monkeypatch.setattr(words, "_features", lambda vlm, batch: None)
    bound = max(words._tower_tokens(vlm, batch), batch["input_ids"].shape[1] + 16) * 2
    with counted(vlm) as (passes, encoded): found = words.word_probs(vlm, batch, contexts, pieces, bound)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-9)
    assert max(rows for rows, _ in passes) <= 2
    assert max(rows * tokens for rows, tokens in passes) <= bound
    assert len(encoded) == len(passes)


def test_the_model_is_left_as_it_was(vlm):
    batch, contexts, pieces = ready(vlm)
    before = vlm.image_features(vlm.rows(batch, [0])).pooler_output[0]
    with pytest.raises(ValueError, match="raise max_tokens"): words.word_probs(vlm, batch, contexts, pieces, 8)
    words.word_probs(vlm, batch, contexts, pieces)
    assert "get_image_features" not in vars(vlm.base.model)
    assert torch.equal(vlm.image_features(vlm.rows(batch, [0])).pooler_output[0], before)


def test_rows_of_a_batch_are_what_each_row_gives_alone(vlm):
    batch, _, _ = ready(vlm)
    mixed = vlm.rows(batch, [2, 0, 2])
    for row, i in enumerate((2, 0, 2)):
        for name, values in vlm.inputs(picture(i), PROMPT).items():
            assert torch.equal(vlm.rows(mixed, [row])[name], values), name


def test_a_class_with_more_than_one_set_of_features_encodes_every_row():
    "Qwen3-VL's deep features cannot be split by picture: the output is not used"
    vlm = tiny.load("llava")
    batch, contexts, pieces = ready(vlm)
    expected = words.word_probs(vlm, batch, contexts, pieces)[0]
    plain = vlm.base.model.get_image_features
    def deep(*args, **kwargs):
        out = plain(*args, **kwargs)
        return type("Out", (dict,), {"pooler_output": out.pooler_output})(pooler_output=out.pooler_output,
            deepstack_features=[])
    vlm.image_features = lambda images: deep(images["pixel_values"], return_dict=True)
    assert words._features(vlm, batch) is None
    torch.testing.assert_close(words.word_probs(vlm, batch, contexts, pieces)[0], expected, rtol=1e-3, atol=1e-9)


# ---- A caption with ten objects, on a model with 576 tokens for a picture -------------------------------------------

def large():
    "A tiny LLaVA with LLaVA-1.5's picture: 336 pixels, patches of 14, 576 tokens"
    import transformers as t
    torch.manual_seed(0)
    tok = tiny.tokenizer()
    vision = t.CLIPVisionConfig(**tiny.TOWER | dict(image_size=336, patch_size=14))
    text = t.LlamaConfig(vocab_size=len(tok), pad_token_id=3, max_position_embeddings=2048, **tiny.SMALL)
    config = t.LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, pad_token_id=3,
                           image_seq_length=576, vision_feature_layer=-2, vision_feature_select_strategy="default")
    eye = tiny.CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = t.LlavaProcessor(eye, tok, patch_size=14, vision_feature_select_strategy="default",
                                 num_additional_image_tokens=1, chat_template=tiny.LLAVA_TEMPLATE)
    return VLM(t.LlavaForConditionalGeneration(config).eval(), processor, "large")


def test_ten_objects_under_576_tokens_never_need_more_than_the_bound():
    vlm = large()
    kinds = ["fork", "knife", "cup", "spoons", "plate", "dog", "bench", "tree", "laptop", "colour"]
    caption = " ".join(f"There is a {kind} on the left." for kind in kinds)
    scene = type("Told", (),
                 dict(image=lambda self: picture(0, (336, 336)), objects=set(kinds), caption=lambda self: caption,
                      seed="told"))()
    sizes = {}
    for bound in (32_768, 4_096):
        with counted(vlm) as (passes, encoded):
            result = shift.object_shift(vlm, [scene], (0, 500, 999), vocabulary={kind: [kind] for kind in kinds},
                                        partners={}, max_tokens=bound)
        assert int((vlm.inputs(scene, PROMPT)["input_ids"] == vlm.image_token_id).sum()) == 576
        assert len(result.slots) == 10 and sum(encoded) == 3
        assert max(rows * tokens for rows, tokens in passes) <= bound and max(encoded) * 576 <= bound
        assert sum(rows * tokens for rows, tokens in passes) > bound            # it would not have fitted in one
        sizes[bound] = result.shares
    assert np.allclose(sizes[32_768], sizes[4_096], atol=1e-5)
