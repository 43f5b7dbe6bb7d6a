"""4-bit weights trained on the CPU by bitsandbytes, and 16 bits under a GradScaler: the paths of small cards,
really run"""
import importlib.util, os, signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, GenerationConfig, TrainerCallback

import newer_models, test_branches as sharing, tiny_models
from povid_nb import branches, load, stages
from povid_nb.branches import Branches
from povid_nb.dpo import dpo_loss
from povid_nb.vlm import VLM
from test_train import OPTIONS, fresh, some_pairs

needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None,
                                        reason="needs bitsandbytes: pip install bitsandbytes")


@pytest.fixture
def four_bits(tmp_path, monkeypatch):
    "A function that loads a tiny LLaVA with NF4 weights; the library wants a GPU for them, since a CPU is slow at it"
    setting = load._four_bits
    monkeypatch.setattr(load, "_four_bits",
                        lambda quantize, device, dtype: setting(quantize, torch.device("cuda"), dtype))
    base = tiny_models.save("llava", tmp_path/"base")
    return lambda: VLM.load(base, "cpu", "float32", "4bit")


@needs_bitsandbytes
def test_both_stages_in_4_bits_stopped_and_resumed(four_bits, tmp_path):
    class Press(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if args.output_dir.endswith("stage2") and state.global_step == 2: os.kill(os.getpid(), signal.SIGTERM)
    options = (OPTIONS
               | dict(batch_size=2, stage1=dict(max_steps=2),
                      stage2=dict(form="released", max_steps=4, logging_steps=1)))
    vlm = four_bits()
    layer = vlm.part("language_model").layers[0].self_attn.q_proj
    before = layer.weight.data.clone()
    assert type(layer).__name__ == "Linear4bit" and before.dtype == torch.uint8
    first = vlm.score(some_pairs(1)[0].image, "What", "a red fork").logps
    vlm = stages.train(vlm, some_pairs(8), tmp_path/"whole", **options)
    assert torch.equal(
        dict(vlm.base.named_modules())["model.language_model.layers.0.self_attn.q_proj"].base_layer.weight.data,
        before), "the weights rest"
    assert vlm.score(some_pairs(1)[0].image, "What", "a red fork").logps != first
    with pytest.raises(KeyboardInterrupt):
        stages.train(four_bits(), some_pairs(8), tmp_path/"cut", callbacks=[Press()], **options)
    stages.train(four_bits(), some_pairs(8), tmp_path/"cut", **options)
    for name in ("stage1", "stage2", "adapter"):
        whole, cut = (load_file(tmp_path/run/name/"adapter_model.safetensors") for run in ("whole", "cut"))
        assert whole.keys() == cut.keys() and all(torch.equal(whole[k], cut[k]) for k in whole), name


@needs_bitsandbytes
def test_packed_answers_in_4_bits_are_the_plain_ones(four_bits):
    vlm = stages.add_adapter(four_bits(), rank=3)
    rows, found = [branches.encode(vlm, pair) for pair in some_pairs(3)], []
    for plain in (True, False):
        branch = Branches(vlm, plain)
        found.append(branch.step(**branch.collate(rows))["policy"])
    assert not branch.why_plain and torch.allclose(*found, atol=2e-5)


@needs_bitsandbytes
@pytest.mark.slow
@pytest.mark.parametrize("name", [*tiny_models.ARCHITECTURES, *newer_models.BUILDERS])
def test_every_class_in_4_bits(name, tmp_path):
    """The layers of the language model are shrunk, its answers are scored packed as plain, and the adapter gets its
    gradient"""
    if name == "lfm2_vl" and not newer_models.HAS_TORCHVISION:
        pytest.skip("LFM2-VL reads pictures through torchvision alone")
    model, processor = (tiny_models.BUILDERS | newer_models.BUILDERS)[name]()
    model.save_pretrained(tmp_path)
    setting, stops = load._four_bits("4bit", torch.device("cuda"), torch.float32), model.generation_config
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32, quantization_config=setting,
                                                        device_map={"": "cpu"}).eval()
    model.generation_config = (stops if stops.eos_token_id is not None
                               else GenerationConfig(eos_token_id=2, pad_token_id=3))
    vlm = stages.add_adapter(VLM(model, processor, name), rank=3)
    assert "Linear4bit" in {type(module.base_layer).__name__ for module in vlm.part("language_model").modules()
                            if hasattr(module, "base_layer")}
    rows, found = [branches.encode(vlm, sharing.a_pair(seed)) for seed in (1, 2, 3)], []
    for plain in (True, False):
        branch = Branches(vlm, plain)
        found.append(branch.step(**branch.collate(rows))["policy"])
    assert torch.allclose(*found, atol=2e-5)
    found[1].sum().backward()
    assert all(p.grad.isfinite().all() for p in vlm.model.parameters() if p.requires_grad)
    assert any(p.grad.abs().max() > 0 for p in vlm.model.parameters() if p.requires_grad)


def test_half_precision_under_a_grad_scaler():
    "fp16 as on a T4: the scaled loss gives the gradient of 32 bits, and a step that overflows is left out"
    vlm = fresh()
    branch, learning = Branches(vlm), [p for p in vlm.model.parameters() if p.requires_grad]
    batch = branch.collate([branches.encode(vlm, pair) for pair in some_pairs(4)])
    loss = lambda: dpo_loss(*branches.answer_logps(vlm.model(branches=batch | {"form": "dpo"}))).losses.mean()
    exact = torch.autograd.grad(loss(), learning)
    optimizer, scaler = torch.optim.SGD(learning, lr=.1), torch.amp.GradScaler("cpu", init_scale=2.**14)
    with torch.autocast("cpu", torch.float16): half = loss()
    scaler.scale(half).backward()
    scaler.unscale_(optimizer)
    flat = lambda grads: torch.cat([g.flatten() for g in grads])
    assert (flat([p.grad for p in learning]) - flat(exact)).norm() / flat(exact).norm() < .02
    before = [p.detach().clone() for p in learning]
    scaler.step(optimizer), scaler.update()
    assert any(not torch.equal(a, b) for a, b in zip(before, learning)) and scaler.get_scale() == 2.**14
    before = [p.detach().clone() for p in learning]
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.float16): half = loss()
    scaler.scale(half * float("inf")).backward()
    scaler.step(optimizer), scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, learning)) and scaler.get_scale() == 2.**13
