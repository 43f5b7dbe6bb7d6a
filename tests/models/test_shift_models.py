"Sweeps on tiny random models of the real classes, against the one-image-at-a-time verbs of `vlm`"
import json
import numpy as np, pytest, tiny_models, torch
from PIL import Image
from povid_nb import noise, shift, world
from povid_nb.explorer import Explorer

WORDS, PREFIX, PROMPT = ["fork", "knife", "spoons", "red"], "a red fork is", "Describe this image."
SETTINGS = [("pixels", "clamp"), ("pixels", "wrap"), ("pixels", "none"), ("processed", "none")]

@pytest.fixture(scope="module")
def models(): return {name: tiny_models.load(name) for name in tiny_models.ARCHITECTURES}

def picture(size=(90, 60)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))

@pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
@pytest.mark.parametrize("space, overflow", SETTINGS)
def test_sweep_equals_one_at_a_time(models, name, space, overflow):
    vlm, image = models[name], picture()
    result = shift.sweep(vlm, image, PROMPT, PREFIX, steps=[0, 500, 999], seeds=[3, 8], words=WORDS, space=space,
                         overflow=overflow, image_id="p")
    assert result.probs.shape == (3, 2, 4) and (result.probs >= 0).all() and (result.probs.sum(-1) <= 1).all()
    for i, j in ((0, 0), (1, 1), (2, 0)):
        k, seed = result.steps[i], [3, 8][j]
        if space == "processed":
            alone = dict(image=image,
                         pixels=lambda v: noise.noisy_rows(v.float()[None], [k], ["p"], seed)[0].to(v.dtype))
        elif overflow == "none":
            alone = dict(image=image,
                         pixels=lambda v: shift.noisy_inputs(vlm, image, PROMPT, [(k, seed)], "p", space,
                                                             overflow)["pixel_values"])
        else: alone = dict(image=noise.add_noise(image, k, "p", seed, overflow))
        expected = [word.prob for word in vlm.next_tokens(prompt=PROMPT, prefix=PREFIX, words=WORDS, **alone)]
        assert np.allclose(result.probs[i, j], expected, rtol=2e-3, atol=1e-9)

@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3"])
def test_one_forward_for_a_sweep(models, name):
    calls, vlm = [], models[name]
    hook = vlm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    result = shift.sweep(vlm, picture(), PROMPT, PREFIX, seeds=1, words=WORDS)
    hook.remove()
    assert len(calls) == 1 and result.probs.shape == (21, 1, 4)

def test_the_bound_does_not_matter(models):
    options = dict(steps=[0, 300, 600], seeds=2, words=WORDS, image_id="p")
    whole, parts = (shift.sweep(models["llava"], picture(), PROMPT, PREFIX, max_tokens=n, **options).probs
                    for n in (32_768, 100))
    assert np.allclose(whole, parts, atol=1e-6)

@pytest.mark.parametrize("overflow", ["clamp", "wrap"])
def test_tiles_share_one_noise_field(models, overflow):
    "In pixels, the tiles of LLaVA-NeXT are pieces of one noisy picture; in processed, each tile has noise of its own"
    vlm, image = models["llava_next"], Image.new("RGB", (64, 64), (128, 128, 128))
    noisy = noise.add_noise(image, 500, "p", overflow=overflow)
    tiles = shift.noisy_inputs(vlm, image, PROMPT, [(500, 0)], "p", "pixels", overflow)["pixel_values"][0]
    assert len(tiles) == 5                           # an overview and four tiles of 32 x 32
    eye = vlm.processor.image_processor
    x = (np.asarray(noisy, dtype=np.float32) / 255 - eye.image_mean) / eye.image_std
    for i, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        cut = x[32 * row:32 * row + 32, 32 * column:32 * column + 32].transpose(2, 0, 1)
        assert np.allclose(tiles[1 + i], cut, atol=1e-4)
    overview = np.asarray(noisy.resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float32)
    assert np.corrcoef(overview.transpose(2, 0, 1).ravel(), tiles[0].ravel())[0, 1] > .95
    apart = shift.noisy_inputs(vlm, image, PROMPT, [(500, 0)], "p", "processed", "none")["pixel_values"][0]
    clean = vlm.inputs(image, PROMPT)["pixel_values"][0]
    eps = (apart - noise.shares()[0][500] * clean) / noise.shares()[1][500]
    shrunk = torch.nn.functional.interpolate(eps[1:2], (16, 16), mode="area")[0]
    assert abs(np.corrcoef(shrunk.ravel(), eps[0, :, :16, :16].ravel())[0, 1]) < .15

def test_pixels_without_overflow_through_tiles(models):
    vlm, image = models["llava_next"], picture((64, 64))
    tiles = shift.noisy_inputs(vlm, image, PROMPT, [(500, 0), (0, 0)], "p", "pixels", "none")["pixel_values"]
    floats, eye = noise.add_noise(image, 500, "p", overflow="none"), vlm.processor.image_processor
    cut = (floats[:32, 32:] - np.array(eye.image_mean)) / eye.image_std
    assert np.abs(tiles[0, 2].permute(1, 2, 0).numpy() - cut).max() < 1.1 * (floats.max()
        - floats.min()) / 255 / min(eye.image_std)

@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3"])
def test_object_shift(models, name):
    result = shift.object_shift(models[name], world.scenes("counter", "test", 3), (0, 500, 999), seeds=2)
    assert result.shares.shape == (len(result.slots), 3, 5) and len(result.leaders) == len(result.slots)
    assert np.allclose(result.shares.sum(-1), 1, atol=1e-5) and (result.shares > -1e-6).all()
    curves = result.curves()
    assert set(curves) == set(shift._SHARES)
    assert all(i.low <= i.value <= i.high for line in curves.values() for i in line)

@pytest.mark.parametrize("prefix", ["", "   "])
def test_empty_prefix(models, prefix):
    with pytest.raises(ValueError, match="the prefix is empty"):
        shift.sweep(models["llava"], picture(), PROMPT, prefix, words=WORDS)

def test_prefix_that_cannot_be_aligned(models, monkeypatch):
    "A template that ends inside a word: one token would reach over the border"
    vlm = models["idefics3"]
    monkeypatch.setattr(vlm, "text", lambda prompt, answer=None: "User:<image>Describe this ima" + (answer or ""),
                        raising=False)
    with pytest.raises(ValueError, match="cannot be told apart from what stands before it"):
        shift.sweep(vlm, picture(), PROMPT, "ge in detail.", steps=[0], seeds=1, words=WORDS)

@pytest.mark.parametrize("options, message", [
    (dict(steps=[0, 1000]), "noise_step is 1000"), (dict(steps=[-1]), "noise_step is -1"),
    (dict(steps=[]), "0 noise steps"), (dict(seeds=0), "0 seeds"),
    (dict(space="latent"), "Unknown space 'latent'"), (dict(overflow="cut"), "Unknown overflow 'cut'")])
def test_bad_options(models, options, message):
    with pytest.raises(ValueError, match=message):
        shift.sweep(models["llava"], picture(), **dict(prompt=PROMPT, prefix=PREFIX, words=WORDS) | options)

def test_bad_image(models, tmp_path):
    (tmp_path/"bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="bad.png is not an image"):
        shift.sweep(models["llava"], tmp_path/"bad.png", PROMPT, PREFIX, words=WORDS)
    with pytest.raises(FileNotFoundError, match="no image file at"):
        shift.sweep(models["llava"], tmp_path/"none.png", PROMPT, PREFIX, words=WORDS)

def test_first_word_of_the_answer(models):
    result = shift.sweep(models["llava"], picture(), PROMPT, None, steps=[0], seeds=1, words=["There", "a"])
    expected = [word.prob
                for word in models["llava"].next_tokens(noise.add_noise(picture(), 0, ""), PROMPT,
                                                        words=["There", "a"])]
    assert np.allclose(result.probs[0, 0], expected, rtol=1e-3)

def test_words_are_found(models):
    result = shift.sweep(models["llava"], picture(), PROMPT, PREFIX, steps=[0, 999], seeds=1, k=3)
    best = models["llava"].next_tokens(noise.add_noise(picture(), 0, ""), PROMPT, PREFIX, k=3)
    assert set(word.text for word in best) <= set(result.words) and len(result.words) == len(set(result.words))

@pytest.mark.parametrize("name", ["llava", "llava_next", "idefics3"])
def test_explorer_runs(models, name):
    explorer = Explorer(models[name], [picture()], steps=(0, 500, 999))
    explorer.choose(answer="a red fork is on the left", position=3)
    sweep = explorer.sweeps[explorer._key()]
    assert len(explorer.frames[sweep["frames"]]) == 3 and np.array(sweep["probs"]).shape == (3, len(sweep["words"]))
    json.dumps(explorer.sweeps)

def test_explorer_says_what_it_cannot_show(models):
    with pytest.raises(ValueError, match="patches of its own"):
        models["qwen2_vl"].pictures(models["qwen2_vl"].inputs(picture(), PROMPT)["pixel_values"])
