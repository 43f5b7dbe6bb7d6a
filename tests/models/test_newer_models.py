"The classes that people start from in 2026: every verb, packed or plain, a training step, attention and shift"
import math

import numpy as np
import pytest
import torch

import newer_models, tiny_models
import test_attention_models as attending
import test_branches as sharing
import test_train as training
from povid_nb import branches, forms, noise, shift, stages
from povid_nb.attention import attend
from povid_nb.branches import Branches
from povid_nb.train import PovidTrainer

tiny_models.BUILDERS.update(newer_models.BUILDERS)
PACKED = ["llava_onevision", "smolvlm", "qwen2_5_vl", "internvl"]
PLAIN = {"paligemma2": "window", "gemma3": "window", "gemma4": "window", "qwen3_vl": "first layers once more",
         "qwen3_5": "linear_attention layers carry a state", "lfm2_vl": "conv layers carry a state"}
NAMES = [pytest.param(name,
                      marks=pytest.mark.skipif(name == "lfm2_vl" and not newer_models.HAS_TORCHVISION,
                                               reason="LFM2-VL reads pictures through torchvision alone"))
         for name in [*PACKED, *PLAIN]]
PICTURES, ANSWERS = attending.PICTURES, attending.ANSWERS
PROMPTS = ["Is there a knife?", "What", "Describe this image in detail. What colour is the cup?"]


@pytest.fixture(scope="module", params=NAMES)
def name(request): return request.param


@pytest.fixture(scope="module")
def vlm(name): return tiny_models.load(name, seed=1)


def plain_logps(vlm, image, prompt, answer):
    "One row without padding through the model's own forward, the whole softmax in 64 bits"
    batch = vlm.inputs(image, prompt)
    ids, n = vlm.tokens_after(vlm.text(prompt), vlm.between() + answer) + [vlm.end_id()], batch["input_ids"].shape[1]
    fill = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": [int(vlm.prefix_lm)] * len(ids),
            "mm_token_type_ids": [0] * len(ids)}
    batch |= {key: torch.cat([batch[key], torch.tensor([more])], 1) for key, more in fill.items() if key in batch}
    with torch.no_grad(): logits = vlm.model(**batch).logits[0].double().log_softmax(-1)
    return torch.stack([logits[n + i - 1, token] for i, token in enumerate(ids)])


def test_every_verb(vlm):
    naive = [plain_logps(vlm, *row) for row in zip(PICTURES, PROMPTS, ANSWERS)]
    for score, expected in zip(vlm.score(PICTURES, PROMPTS, ANSWERS), naive, strict=True):     # three pictures, padded
        torch.testing.assert_close(score.token_logps.double(), expected, atol=2e-5, rtol=0)
    assert (naive[0]
            - plain_logps(vlm, PICTURES[1], PROMPTS[0],
                          ANSWERS[0])).abs().max() > 1e-3, "another picture, another answer"
    texts = vlm.describe(PICTURES, PROMPTS, max_new_tokens=4)
    assert texts == [vlm.describe(image, prompt, max_new_tokens=4) for image, prompt in zip(PICTURES, PROMPTS)]
    probs = [word.prob for word in vlm.next_tokens(PICTURES[0], k=3)]
    assert probs == sorted(probs, reverse=True) and 0 < sum(probs) <= 1
    where, batch = vlm.image_positions(PICTURES[0], "What"), vlm.inputs(PICTURES[0], "What")
    seen = vlm.image_features(batch).pooler_output
    assert int(where.sum()) == sum(part.flatten(0, -2).shape[0]
                                   for part in (seen if isinstance(seen, (list, tuple)) else [seen]))


def test_packed_only_where_a_check_allows_it(vlm, name):
    branch = Branches(vlm)
    assert (branch.why_plain is None) == (name in PACKED)
    if name in PLAIN: assert PLAIN[name] in branch.why_plain and "one row for each answer" in repr(branch)


@pytest.mark.parametrize("form", list(forms.FORMS))
def test_answers_are_scored_as_by_the_models_own_forward(name, form):
    "Packed: values and gradients are those of the plain form. Plain: they are those of `VLM.score`"
    vlm = sharing.with_adapter(tiny_models.load(name))
    some = [sharing.a_pair(seed) for seed in (1, 2, 3)]
    rows = [branches.encode(vlm, pair) for pair in some]
    if name in PACKED:
        values, grads = sharing.compare(vlm, rows, form)
        assert values < 2e-5 and grads < 2e-5
    elif form == "dpo":
        plain = Branches(vlm)
        policy, reference = branches.answer_logps(plain.step(**plain.collate(rows)))
        expected = [vlm.score(p.image, p.prompt, p.rejected).logps for p in some]
        assert policy.rejected.tolist() == pytest.approx(expected, abs=3e-4)
        with vlm.adapter_off(): expected = [vlm.score(p.image, p.prompt, p.chosen).logps for p in some]
        assert reference.chosen.tolist() == pytest.approx(expected, abs=3e-4)


@pytest.mark.parametrize("spoil", [sharing.rejected_sees_chosen, sharing.positions_run_on, sharing.reads_one_too_late])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
def test_a_model_whose_packed_rows_are_wrong_is_found_out(name, spoil, monkeypatch):
    "The check is a trial on the model itself, so it needs no list of models"
    spoil(monkeypatch)
    if name == "qwen2_5_vl" and spoil is sharing.positions_run_on:   # it has positions of its own
        monkeypatch.setattr(Branches, "_positions", lambda self, rows, packed: packed["positions"].expand(3, -1, -1))
    assert "differ by" in Branches(tiny_models.load(name)).why_plain


def test_a_training_step(name, tmp_path):
    vlm = stages.add_adapter(tiny_models.load(name), rank=2)
    args = training.config(tmp_path, form="released", noise_tokens="moved", max_steps=2, per_device_train_batch_size=2,
                           learning_rate=1e-2)
    trainer = PovidTrainer(vlm, args, training.some_pairs(4))
    trainer.train()
    first, second = training.losses(trainer)
    assert first == pytest.approx(math.log(2), abs=1e-4) and math.isfinite(second) and second != first
    path = vlm.paths()["language_model"]
    moved = [n for n, p in vlm.model.named_parameters() if "lora_B" in n and p.abs().max() > 0]
    assert moved and all(f".{path}." in n for n in moved)


def test_noise_on_flat_patches_goes_on_the_picture(name, tmp_path):
    "A processor that writes each pixel into two patches, or a row of patches, would get two noises for one pixel"
    vlm, some = stages.add_adapter(tiny_models.load(name), rank=2), training.some_pairs(2)
    trainer = PovidTrainer(vlm, training.config(tmp_path, form="released", noise_step=400), some)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    images = batch["branches"]["images"]
    found, clean = trainer._branch_inputs(batch)["noisy_images"]["pixel_values"], images["pixel_values"]
    if clean.dim() > 3: assert found.equal(branches.noisy_pixels(images, 400, [f"{key} 0" for key in batch["keys"]]))
    else:
        pictures = [noise.add_noise(pair.image, 400, f"{key} 0", 0, "clamp") for pair, key in zip(some, batch["keys"])]
        assert found.equal(vlm.inputs(pictures, [pair.prompt for pair in some])["pixel_values"])


def test_attention(vlm):
    naive, ids, mask = attending.tables(vlm, PICTURES[0], PROMPTS[0], ANSWERS[0])
    seen = attend(vlm, PICTURES[0], PROMPTS[0], ANSWERS[0])
    picture, asks = (ids == vlm.image_token_id).nonzero()[:, 0], mask.nonzero()[:, 0] - 1
    assert seen.image_share().shape[0] == len(asks)
    ours = seen.maps[(None, None)].sum(-1)
    if seen.grid and math.prod(seen.grid) == len(picture):
        assert np.allclose(ours, naive.mean((0, 1))[asks][:, picture].sum(-1), atol=1e-5)


def test_shift(vlm):
    image, options = PICTURES[2], dict(words=["fork", "knife"])
    found = shift.sweep(vlm, image, "What", "a red", steps=[0, 600], seeds=[3], space="pixels", image_id="p",
                        **options)
    for i, k in enumerate((0, 600)):
        alone = vlm.next_tokens(noise.add_noise(image, k, "p", 3), "What", "a red", **options)
        assert np.allclose(found.probs[i, 0], [word.prob for word in alone], rtol=2e-3, atol=1e-9)
