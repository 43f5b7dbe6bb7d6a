"Attention on tiny random models of the real classes, against the tables that transformers itself gives out"
import json, os, random, sys
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parent))
import tiny_models as tiny   # noqa: E402
from povid_nb import attention, attention_plots as plots, trust, watch   # noqa: E402
from povid_nb.looker import Looker   # noqa: E402
from povid_nb.vlm import VLM   # noqa: E402

PROMPTS = ["Is there a knife?", "What", "Describe this image in detail. What colour is the cup?"]
ANSWERS = ["There is a red fork", "no", "the dog and the tree and the cup"]


def picture(seed, width, height):
    return Image.frombytes("RGB", (width, height), random.Random(seed).randbytes(3 * width * height))


PICTURES = [picture(0, 50, 40), picture(1, 64, 64), picture(2, 90, 33)]


@pytest.fixture(scope="module", params=tiny.ARCHITECTURES + tiny.WITH_TORCHVISION)
def vlm(request): return tiny.load(request.param)


@pytest.fixture(scope="module")
def llava(): return tiny.load("llava")


def tables(vlm, image, prompt, answer):
    """transformers' own attention tables of one unpadded row [layers, heads, tokens, tokens], its ids and where the
    answer is"""
    batch = vlm.inputs(image, prompt, answer)
    mask, before = batch.pop("answer_mask")[0], vlm.base.config.get_text_config()._attn_implementation
    vlm.base.set_attn_implementation("eager")
    try:
        with vlm.reading(): found = vlm.model(**batch, use_cache=False, output_attentions=True).attentions
    finally: vlm.base.set_attn_implementation(before)
    return torch.stack(found)[:, 0].double(), batch["input_ids"][0], mask


def settings(vlm):
    configs = [vlm.base.config, *(getattr(vlm.base.config, name) for name in vlm.base.config.sub_configs)]
    return [c._attn_implementation for c in configs]


# ---- The lines ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("loaded_as", ["sdpa", "eager"])
def test_lines_are_those_of_the_model(vlm, loaded_as):
    vlm.base.set_attn_implementation(loaded_as)
    before, batch = settings(vlm), vlm.inputs(PICTURES, PROMPTS, ANSWERS)
    mask = batch.pop("answer_mask")
    with vlm.reading(): plain = vlm.model(**batch, use_cache=False).logits
    seen = {}
    def see(layer): seen[layer.number] = [layer.probs(row, slice(None)) for row in range(3)]
    with vlm.reading(), watch.watch(vlm, see): watched = vlm.model(**batch, use_cache=False).logits
    assert settings(vlm) == before and not watch._WATCHED
    real = batch["attention_mask"].bool()
    assert torch.allclose(plain[real], watched[real], atol=1e-4)
    # the layers of the language model, and none of the tower
    assert sorted(seen) == [0, 1]
    for row in range(3):
        naive, ids, _ = tables(vlm, PICTURES[row], PROMPTS[row], ANSWERS[row])
        ours, n = torch.stack([seen[i][row] for i in (0, 1)]), len(ids)
        assert torch.allclose(ours.double()[:, :, :n, :n], naive, atol=1e-5)
        assert (ours.sum(-1)[:, :, :n] - 1).abs().max() < 1e-5 and (ours[:, :, :n, n:] == 0).all()
    vlm.base.set_attn_implementation("sdpa")


def test_shares_are_sums_over_the_tables_alone_and_padded(vlm):
    together = attention.attend(vlm, PICTURES, PROMPTS, ANSWERS, views="all")
    for row, (image, prompt, answer) in enumerate(zip(PICTURES, PROMPTS, ANSWERS)):
        naive, ids, mask = tables(vlm, image, prompt, answer)
        lines, is_image = naive[:, :, mask.nonzero()[:, 0] - 1].numpy(), (ids == vlm.image_token_id).numpy()
        is_answer, first = mask.numpy(), np.arange(len(ids)) == 0
        for look in (together[row], attention.attend(vlm, image, prompt, answer, views="all")):
            close = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-5)
            close(look.shares.sum(-1), 1)
            close(look.shares[..., 1] + look.shares[..., 2], lines[..., is_image].sum(-1))
            close(look.shares[..., 4], lines[..., is_answer].sum(-1))
            close(look.shares[..., 0] + look.shares[..., 3], lines[..., ~is_image & ~is_answer].sum(-1))
            if not is_image[0]: close(look.shares[..., 0], lines[..., first].sum(-1))
            logs = np.log(np.where(lines > 0, lines, 1))
            np.testing.assert_allclose(look.entropy, -(lines * logs).sum(-1), atol=1e-4)
            shown = np.prod(look.grid)
            for (layer, head), seen in look.maps.items():
                part = lines[..., is_image][..., :shown][slice(None) if layer is None else slice(layer, layer + 1)]
                close(seen, (part.mean((0, 1)) if head is None else part[:, head].mean(0)))
            assert look.text == answer
            assert look.is_image[:len(ids)].tolist() == is_image[:look.is_image.shape[0]].tolist()


def test_layout(vlm):
    """The patches form the grid that the processor makes: squares, a rectangle of the picture's own shape, or the
    overview of several tiles"""
    kind = vlm.base.config.model_type
    grids = [attention.attend(vlm, image, "What", "no").grid for image in PICTURES]
    if kind in ("llava", "paligemma", "llava_next"): assert grids == [(4, 4)] * 3
    if kind == "idefics3": assert grids == [(2, 2)] * 3
    if kind == "qwen2_vl":
        for image, grid in zip(PICTURES, grids):
            _, height, width = vlm.inputs(image, "What")["image_grid_thw"][0].tolist()
            assert grid == (height // 2, width // 2)


def test_same_lines_while_writing_with_the_cache(vlm):
    "Teacher-forced, and token by token with keys and values kept: the same"
    image, prompt, answer = PICTURES[0], PROMPTS[0], ANSWERS[0]
    look, batch = attention.attend(vlm, image, prompt, answer), vlm.inputs(image, prompt)
    ids = vlm.tokens_after(vlm.text(prompt), vlm.between() + answer)
    parts, start = [], batch["input_ids"].shape[1]
    def see(layer): parts.append(layer.probs(0, slice(-1, None))[:, 0])
    def dictate(written, scores):
        scores = torch.full_like(scores, -1e9)
        scores[:, [*ids, vlm.end_id()][written.shape[1] - start]] = 0
        return scores
    with watch.watch(vlm, see): assert vlm.describe(image, prompt, logits_processor=[dictate]) == answer
    is_image = (batch["input_ids"][0] == vlm.image_token_id).nonzero()[:, 0]
    stepwise = torch.stack([line[:, is_image].sum(-1) for line in parts]).view(len(ids) + 1, 2, -1).permute(1, 2, 0)
    assert np.allclose(stepwise, look.shares[..., 1] + look.shares[..., 2], atol=1e-5)


def test_writing_under_watch_writes_the_same(vlm):
    "Greedy writing in a batch padded on the left"
    plain = vlm.describe(PICTURES, PROMPTS, max_new_tokens=8)
    with watch.watch(vlm, lambda layer: layer.probs(0, slice(-1, None))):
        assert vlm.describe(PICTURES, PROMPTS, max_new_tokens=8) == plain


# ---- Rollout and gradient -------------------------------------------------------------------------------------------

def test_rollout_is_the_matrix_product(vlm):
    look = attention.attend(vlm, PICTURES, PROMPTS, ANSWERS, rollout=True)[2]
    naive, ids, mask = tables(vlm, PICTURES[2], PROMPTS[2], ANSWERS[2])
    reach = torch.eye(len(ids), dtype=torch.float64)
    for layer in naive: reach = (layer.mean(0) + torch.eye(len(ids))) / 2 @ reach
    expected = reach[mask.nonzero()[:, 0] - 1][:, ids == vlm.image_token_id][:, :np.prod(look.grid)]
    assert np.allclose(look.maps["rollout"], expected, atol=1e-5)


def test_gradient_map_is_autograd_on_the_tables(vlm):
    "The model's own eager attention, whose tables take part in the graph"
    places = [2, 0, 4]
    ours = trust.gradient_maps(vlm, PICTURES, PROMPTS, ANSWERS, places)
    for row, place in enumerate(places):
        batch = vlm.inputs(PICTURES[row], PROMPTS[row], ANSWERS[row])
        at, is_image = int(batch["answer_mask"][0].nonzero()[place]) - 1, batch["input_ids"][0] == vlm.image_token_id
        kept = []
        module_out = lambda module, args, output: kept.append(output[1])
        hooks = [m.register_forward_hook(module_out) for m in vlm.part("language_model").modules()
                 if type(m).__name__.endswith("Attention")]
        vlm.base.set_attn_implementation("eager")
        logp = vlm.token_logps(batch)[0][place]
        vlm.base.set_attn_implementation("sdpa")
        for hook in hooks: hook.remove()
        slopes = torch.autograd.grad(logp, kept)
        expected = sum((slope[0, :, at].clamp_min(0) * table[0, :, at]).mean(0)
                       for slope, table in zip(slopes, kept))[is_image].detach()
        assert len(kept) == 2
        assert np.allclose(ours[row], expected[:len(ours[row])], rtol=1e-3, atol=1e-7)
        assert ours[row].max() > 0


def test_gradient_of_a_model_with_frozen_weights(llava):
    expected = trust.gradient_maps(llava, PICTURES[:1], PROMPTS[:1], ANSWERS[:1], [1])[0]
    for p in llava.model.parameters(): p.requires_grad_(False)
    frozen = trust.gradient_maps(llava, PICTURES[:1], PROMPTS[:1], ANSWERS[:1], [1])[0]
    for p in llava.model.parameters(): p.requires_grad_(True)
    assert np.allclose(frozen, expected) and all(p.grad is None for p in llava.model.parameters())


# ---- Hiding ---------------------------------------------------------------------------------------------------------

def test_hidden_patches_have_the_mean_colour(llava):
    values = llava.inputs(PICTURES[1:2], PROMPTS[:1])["pixel_values"]
    dark = trust.occlude(values, [[5]], (4, 4))               # row 1, column 1: pixels 8 to 16
    assert torch.allclose(dark[0, :, 8:16, 8:16], values[0].mean((-2, -1))[:, None, None].expand(3, 8, 8))
    rest = torch.ones(32, 32, dtype=torch.bool); rest[8:16, 8:16] = False
    assert torch.equal(dark[0][:, rest], values[0][:, rest])
    assert torch.equal(trust.occlude(values, [[]], (4, 4)), values)


def test_hiding_tiles_is_refused():
    with pytest.raises(ValueError, match="one field of pixels; these pixel values have the shape"):
        trust.occlude(torch.zeros(1, 3, 3, 32, 32), [[0]], (4, 4))


# ---- Before and after, files, the widget ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tuned():
    vlm = tiny.load("llava")
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=32, init_lora_weights=False,
                        target_modules=r".*language_model.*\.(q_proj|v_proj)")
    vlm.model = get_peft_model(vlm.model, config).eval()
    return vlm


def test_base_and_tuned_of_one_model(tuned, llava):
    looks = attention.base_and_tuned(tuned, PICTURES[0], PROMPTS[0], ANSWERS[0])
    assert list(looks) == ["base", "tuned"] and looks["base"].text == looks["tuned"].text
    assert np.allclose(looks["base"].shares, attention.attend(llava, PICTURES[0], PROMPTS[0], ANSWERS[0]).shares,
                       atol=1e-6)
    assert abs(looks["base"].shares - looks["tuned"].shares).max() > 1e-3
    assert list(attention.base_and_tuned(llava, PICTURES[0], PROMPTS[0], ANSWERS[0])) == ["model"]


def test_files(tuned, tmp_path):
    looks = attention.base_and_tuned(tuned, PICTURES[0], PROMPTS[0], "There is a red fork")
    files = plots.save(looks, tmp_path/"new", ["fork", "red"], image="p.png")
    kept = json.loads((tmp_path/"new"/"attention.json").read_text())
    assert kept["image"] == "p.png" and kept["words"] == ["fork", "red"] and set(kept["models"]) == {"base", "tuned"}
    for name, look in looks.items():
        assert np.allclose(kept["models"][name]["words"]["fork"]["patches"], look.map("fork"), atol=1e-5)
        assert abs(sum(kept["models"][name]["shares"].values()) - 1) < 1e-3
    assert all(f.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for f in files[1:])
    with pytest.raises(ValueError,
                       match="'unicorn' is not in the answer 'There is a red fork': choose one of its words"):
        plots.save(looks, tmp_path/"no", ["unicorn"])
    assert not (tmp_path/"no").exists()


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_figures_and_widget_on_every_architecture(name):
    import matplotlib.pyplot as plt
    vlm = tiny.load(name)
    looks = attention.base_and_tuned(vlm, PICTURES[0], PROMPTS[0], ANSWERS[0])
    for figure in (plots.heatmap(looks, ["red", "fork"]), plots.strip(looks), plots.matrix(looks),
                   plots.matrix(looks, ["fork"])):
        plt.close(figure)
    looker = Looker(vlm, PICTURES[:1], PROMPTS[0], ANSWERS[:1])
    looker.set_state({"view": "layer 1, head 2", "word": 3})
    exact = attention.attend(vlm, PICTURES[0], PROMPTS[0], ANSWERS[0], views=[(1, 2)]).map("red", (1, 2))
    assert np.allclose(looker.exact["values"][0], exact, atol=1e-6)


def test_a_model_that_cannot_be_watched(llava, monkeypatch):
    monkeypatch.setattr(watch, "_WATCHED", {})                # as if its attention never came by
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    AttentionInterface.register(watch._NAME, sdpa_attention_forward)
    try:
        with pytest.raises(ValueError, match="no attention layer of tiny llava could be watched"):
            attention.attend(llava, PICTURES[0], "What", "no")
    finally:
        monkeypatch.undo()
        AttentionInterface.register(watch._NAME, watch._attention_forward)
    assert settings(llava) == ["sdpa"] * 3


def test_an_error_while_looking_leaves_the_model_as_it_was(llava):
    def see(layer): raise KeyError
    with pytest.raises(KeyError), llava.reading(), watch.watch(llava, see):
        llava.model(**llava.inputs(PICTURES[0], "What"))
    assert settings(llava) == ["sdpa"] * 3 and not watch._WATCHED


# ---- Memory ---------------------------------------------------------------------------------------------------------

def deep(layers):
    torch.manual_seed(0)
    model, processor = tiny.build("llava")
    text = LlamaConfig(**{**tiny.SMALL, "num_hidden_layers": layers}, vocab_size=model.config.text_config.vocab_size,
                       pad_token_id=3, max_position_embeddings=2048)
    config = LlavaConfig(vision_config=model.config.vision_config, text_config=text, image_token_id=4, pad_token_id=3,
                         vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=16)
    return VLM(LlavaForConditionalGeneration(config).eval(), processor)


def peak(work, folder):
    "The most bytes that tensors held during a call, beyond what they held before"
    os.environ["KINETO_LOG_LEVEL"] = "99"                      # the profiler announces itself otherwise
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    profile.export_chrome_trace(str(folder/"trace.json"))
    held = [e["args"]["Total Allocated"] for e in json.loads((folder/"trace.json").read_text())["traceEvents"]
            if e.get("name") == "[memory]"]
    return max(held) - held[0]


@pytest.mark.parametrize("rollout", [False, True])
def test_memory_does_not_grow_with_the_number_of_layers(tmp_path, rollout):
    """At 750 tokens: what a look needs beyond the same forward pass without one, at 2 and at 10 layers, is the same
    but for the result"""
    extra, results, naive = [], [], []
    for layers in (2, 10):
        vlm, kept = deep(layers), []
        question, reply = "Describe this image in detail. " * 120, "a red fork is on the left of the plate . " * 12
        batch = vlm.inputs(PICTURES[0], question, reply); del batch["answer_mask"]
        def plain(**options):
            with vlm.reading(): vlm.model(**batch, use_cache=False, logits_to_keep=1, **options)
        bare = peak(plain, tmp_path)
        extra.append(peak(lambda: kept.append(attention.attend(vlm, PICTURES[0], question, reply, rollout=rollout)),
                          tmp_path) - bare)
        results.append(sum(getattr(kept[0], name).nbytes for name in ("shares", "entropy", "sinks")))
        vlm.model.set_attn_implementation("eager")
        naive.append(peak(lambda: plain(output_attentions=True), tmp_path) - bare)
        tokens = batch["input_ids"].shape[1]
    one_table = 4 * 4 * tokens**2
    assert tokens >= 750 and abs(extra[1] - extra[0] - (results[1] - results[0])) < .01 * one_table
    assert naive[1] - naive[0] > 7 * one_table                # the measurement would notice
    assert results[1] - results[0] < .2 * one_table
