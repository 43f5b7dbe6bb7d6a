"""Packed equals unpacked: values, gradients, caches, on the five tiny architectures.

The measure is the model's own forward, one row for each answer (`Branches(plain=True)`), and that one is held against
`VLM.score`, which was written apart from it.
"""
import copy, random
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from peft import LoraConfig, get_peft_model
from PIL import Image

from povid_nb import branches, forms, noise, packing, vcd
from povid_nb.branches import Branches
from povid_nb.cache import Cache, fingerprint
from povid_nb.dpo import dpo_loss
from povid_nb.loss import povid_loss
from povid_nb.pairs import Example, Pair

import tiny_models

ARCHITECTURES = tiny_models.ARCHITECTURES
PACKED = ARCHITECTURES   # those that are not are in test_newer_models.py
WORDS = ("red fork on the left of plate there is a green cup two spoons knife no describe dog bench tree blue "
         "laptop . ?".split())


def with_adapter(vlm, targets=r"q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj", inside="language_model",
                 seed=1):
    "A VLM with a LoRA adapter that does something"
    path = vlm.paths()[inside].replace(".", r"\.")
    vlm.model = get_peft_model(vlm.model, LoraConfig(r=3, lora_alpha=6, target_modules=rf"{path}\..*({targets})"))
    torch.manual_seed(seed)
    for name, p in vlm.model.named_parameters():
        if "lora_" in name: torch.nn.init.normal_(p, std=.2)
    return vlm


@pytest.fixture(scope="module")
def vlms():
    return {name: with_adapter(tiny_models.load(name)) for name in ARCHITECTURES}


def a_pair(seed, longest=12):
    rng = random.Random(seed)
    text = lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, longest)))
    image = Image.frombytes("RGB", (w := rng.randint(20, 70), h := rng.randint(20, 70)), rng.randbytes(w * h * 3))
    chosen = text()
    return Pair(Example(image, text(), chosen, id=f"pair {seed}"), "not " + text())


def a_batch(vlm, branch, rows, form, seed=0):
    "A batch whose noisy images are the clean ones and something more"
    batch = branch.collate(rows, noisy=form != "dpo")
    if form != "dpo":
        values, generator = batch["noisy_images"]["pixel_values"], torch.Generator().manual_seed(seed)
        batch["noisy_images"]["pixel_values"] = values + torch.randn(values.shape, generator=generator)
    return batch


def gradients(vlm, loss):
    vlm.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for n, p in vlm.model.named_parameters() if p.grad is not None])


def loss_of(scores, form):
    if form == "sft": return -(scores["policy"] * scores["real"]).sum()
    both = branches.answer_logps(scores, "moved" if form in ("released", "paper") else "all")
    return (povid_loss(*both, form) if form in ("released", "paper") else dpo_loss(*both)).losses.mean() + \
           (both[0].chosen_noisy.mean() if form == "mdpo" else 0)


def compare(vlm, rows, form, own=False, fast=None):
    "The largest difference in values, and the relative difference of gradients, between packed and plain"
    found = []
    for branch in (Branches(vlm, plain=True), fast or Branches(vlm)):
        scores = branch.step(**a_batch(vlm, branch, rows, form), form=form, own_tokens=own)
        found.append((scores, gradients(vlm, loss_of(scores, form))))
    (plain, plain_grad), (packed, packed_grad) = found
    assert plain.keys() == packed.keys()
    values = [(plain[k] - packed[k]).abs().max().item() for k in plain if isinstance(plain[k], torch.Tensor)
              and plain[k].is_floating_point()]
    assert all(torch.equal(plain[k], packed[k]) for k in plain if isinstance(plain[k], torch.Tensor)
               and not plain[k].is_floating_point())
    return max(values), ((plain_grad - packed_grad).norm() / plain_grad.norm()).item()


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_packed_equals_unpacked(vlms, name, data):
    seeds = data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=4, unique=True), label="pairs")
    form, own = data.draw(st.sampled_from(list(forms.FORMS))), data.draw(st.booleans())
    rows = [branches.encode(vlms[name], a_pair(seed)) for seed in seeds]
    values, grads = compare(vlms[name], rows, form, own)
    assert values < 2e-5 and grads < 2e-5


@contextmanager
def attention(vlm, name):
    "Inside, the language model attends in this way"
    config = vlm.base.config.get_text_config()
    before, config._attn_implementation = config._attn_implementation, name
    try: yield
    finally: config._attn_implementation = before


@pytest.mark.parametrize("name", PACKED)
def test_with_the_whole_mask_too(vlms, name):
    "Eager attention knows nothing of packed rows and gets a mask for every query"
    vlm = vlms[name]
    with attention(vlm, "eager"):
        values, grads = compare(vlm, [branches.encode(vlm, a_pair(s)) for s in (1, 2, 3)], "released")
        assert vlm.base.config.get_text_config()._attn_implementation == "eager"
    assert values < 2e-5 and grads < 2e-5


@pytest.mark.parametrize("name", PACKED)
def test_the_shared_beginning_needs_no_mask(name, monkeypatch):
    """Two calls of PyTorch's attention in a layer: with a mask, and the shared beginning without one. PaliGemma's
    stem is no causal text"""
    vlm = with_adapter(tiny_models.load(name))
    branch, rows, calls = Branches(vlm), [branches.encode(vlm, a_pair(s)) for s in (1, 2)], []
    batch = branch.collate(rows)
    seen, own = branch.look(batch["images"]), torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention",
                        lambda q, k, v, attn_mask=None, **o: calls.append((q.shape[2], k.shape[2],
                            attn_mask is not None, o["is_causal"])) or own(q, k, v, attn_mask=attn_mask, **o))
    branch.hidden(batch["clean"], seen)
    first, length = min(len(row.prompt) for row in rows) - 1, batch["clean"]["ids"].shape[1]
    behind, beginning = (length - first, length, True, False), (first, first, False, True)
    own_layers = [(length, length, True, False)] if vlm.prefix_lm else [behind, beginning]
    # the last is read at the answers alone
    assert calls == own_layers * (len(vlm.part("language_model").layers) - 1) + [behind]


@pytest.mark.parametrize("name", PACKED)
def test_before_the_answers_the_last_layer_makes_keys_and_values_alone(name):
    "Also when an adapter was put on after the first packed row"
    vlm = tiny_models.load(name)
    Branches(vlm)
    branch, rows, read = Branches(with_adapter(vlm)), [branches.encode(vlm, a_pair(s)) for s in (1, 2)], {}
    last = vlm.part("language_model").layers[-1]
    parts = {path: part
             for path in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                          "mlp.up_proj")
             for part in [last.get_submodule(path)]}
    for path, part in parts.items():
        part = getattr(part, "base_layer", part)
        part.register_forward_pre_hook(lambda part, args, path=path: read.update({path: args[0].shape[1]}))
    batch = branch.collate(rows)
    branch.hidden(batch["clean"], branch.look(batch["images"]))
    length = batch["clean"]["ids"].shape[1]
    fewer = length - min(len(row.prompt) for row in rows) + 1
    assert read == {path: length if path[-6:] in ("k_proj", "v_proj") else fewer for path in parts}


@pytest.mark.parametrize("name", PACKED)
def test_the_models_own_forward_stays_what_it_is(name, tmp_path):
    """The name of our attention stays behind in the configuration: padded batches and answers come out the same,
    and nothing of it is saved"""
    vlm = tiny_models.load(name)
    batch = vlm.inputs([a_pair(s).image for s in (1, 2)], ["describe the plate", "dog ?"],
                       ["red fork", "no bench there is a green cup"])
    batch.pop("answer_mask")
    found = []
    for _ in range(2):
        with torch.no_grad():
            found.append((vlm.model(**batch).logits, vlm.describe(a_pair(1).image, max_new_tokens=6)))
        branch = Branches(vlm)
        branch.step(**branch.collate([branches.encode(vlm, a_pair(1))]), form="sft")
        assert vlm.base.config.get_text_config()._attn_implementation == packing._ATTENTION
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] == found[1][1]
    vlm.model.save_pretrained(tmp_path)
    assert packing._ATTENTION not in (tmp_path/"config.json").read_text()


def test_hooks_of_every_part_of_a_layer_are_called(vlms):
    vlm, calls = vlms["llava"], []
    layer, branch = vlm.part("language_model").layers[0], Branches(vlms["llava"])
    parts = [layer, layer.self_attn, layer.mlp, layer.self_attn.q_proj]
    hooks = [part.register_forward_hook(lambda part, *a: calls.append(part)) for part in parts]
    branch.step(**branch.collate([branches.encode(vlm, a_pair(1))]), form="sft")
    for hook in hooks: hook.remove()
    assert sorted(map(id, calls)) == sorted(map(id, parts))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_plain_form_agrees_with_vlm_score(vlms, name):
    vlm, some = vlms[name], [a_pair(s) for s in (4, 5)]
    plain = Branches(vlm, plain=True)
    rows = [branches.encode(vlm, p) for p in some]
    policy, reference = branches.answer_logps(plain.step(**plain.collate(rows)))
    for answer, ours in (("chosen", policy.chosen), ("rejected", policy.rejected)):
        theirs = [vlm.score(p.image, p.prompt, getattr(p, answer)).logps for p in some]
        assert ours.tolist() == pytest.approx(theirs, abs=2e-4)
    with vlm.adapter_off(): theirs = [vlm.score(p.image, p.prompt, p.chosen).logps for p in some]
    assert reference.chosen.tolist() == pytest.approx(theirs, abs=2e-4)


# ---- Each way to get it wrong is noticed ----------------------------------------------------------------------------

def rejected_sees_chosen(monkeypatch):
    monkeypatch.setattr(packing, "_LINEAGE",
                        torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]).bool())

def positions_run_on(monkeypatch):
    pack = branches.pack
    monkeypatch.setattr(branches, "pack",
                        lambda *a, **k: (p := pack(*a, **k))
                        | {"positions": torch.arange(p["ids"].shape[1]).expand_as(p["ids"])})

def reads_one_too_late(monkeypatch):
    pack = branches.pack
    monkeypatch.setattr(branches, "pack",
                        lambda *a, **k: (p := pack(*a, **k))
                        | {"read": (p["read"] + 1).clamp(max=p["ids"].shape[1] - 1)})


@pytest.mark.parametrize("spoil", [rejected_sees_chosen, positions_run_on, reads_one_too_late])
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_a_wrong_row_is_noticed(vlms, spoil, kind, monkeypatch):
    vlm = vlms["llava"]
    rows = [branches.encode(vlm, a_pair(s)) for s in (1, 2)]
    fast, plain = Branches(vlm), Branches(vlm, plain=True)
    spoil(monkeypatch)
    with attention(vlm, kind): one, other = (b.step(**b.collate(rows))["policy"] for b in (plain, fast))
    assert (one - other).abs().max() > 1e-3


def test_a_boolean_mask_under_eager_attention_is_the_trap_that_the_additive_one_avoids(vlms, monkeypatch):
    vlm, fast = vlms["llava"], Branches(vlms["llava"])
    batch = fast.collate([branches.encode(vlm, a_pair(s)) for s in (1, 2)])
    right = fast.step(**batch)["policy"]
    monkeypatch.setattr(packing, "additive_mask", lambda seen, dtype: seen[:, None])
    with attention(vlm, "eager"): wrong = fast.step(**batch)["policy"]
    assert (right - wrong).abs().max() > 1e-3


# ---- Parts ----------------------------------------------------------------------------------------------------------

def test_every_position_sees_its_ancestors_and_itself_and_nothing_else():
    row = branches.Row([7, 4, 4, 8], [1, 2, 3], [5, 6], {}, {})
    packed = packing.pack([row])
    text = {k: packed[k][0].tolist() for k in ("ids", "segments", "positions", "targets", "read")}
    assert text == {"ids": [7, 4, 4, 8, 1, 2, 5], "segments": [0, 0, 0, 0, 1, 1, 2],
                    "positions": [0, 1, 2, 3, 4, 5, 4], "targets": [1, 2, 3, 5, 6], "read": [3, 4, 5, 3, 6]}
    seen = packing.visible(packed)[0]
    assert [row.nonzero().flatten().tolist() for row in seen] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
                                                                  [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 6]]
    assert packing.visible(packed, two_way=True)[0, 0].tolist() == [True] * 4 + [False] * 3


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_head_in_slices_equals_all_logits_at_once(positions, room, seed):
    torch.manual_seed(seed)
    head, h = torch.nn.Linear(8, 20, bias=False).requires_grad_(False), torch.randn(positions, 8)
    targets = torch.randint(-1, 20, (positions, 3))
    weights, found = torch.randn(positions, 3), []
    for run in ("slices", "whole"):
        x = h.clone().requires_grad_()
        if run == "slices": logps, aims = packing.head_logps(head, x, targets, room=room * 20)
        else:
            logits = head(x)
            aims = targets.where(targets >= 0, logits.argmax(-1, keepdim=True))
            logps = logits.log_softmax(-1).gather(1, aims)
        found.append((logps, aims, torch.autograd.grad((logps * weights).sum(), x)[0]))
    for one, other in zip(*found): assert torch.allclose(one, other, atol=1e-5)


def test_the_idle_layer_of_the_tower_is_left_out_and_nothing_changes(vlms):
    vlm = vlms["llava"]
    batch = vlm.inputs([a_pair(1).image], "describe")
    last, calls = vlm.part("tower").encoder.layers[-1], []
    hook = last.self_attn.register_forward_hook(lambda *a: calls.append(1))
    ours = Branches(vlm).look({"pixel_values": batch["pixel_values"]})
    assert not calls
    theirs = vlm.base.get_image_features(batch["pixel_values"]).pooler_output
    hook.remove()
    assert calls and torch.equal(ours[0], theirs[0])


def kept_for_backward(branch, batch, form):
    "Bytes that autograd keeps of a step"
    sizes = {}
    def note(t): sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes(); return t
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t): scores = branch.step(**batch, form=form)
    return sum(sizes.values()), scores


def test_nothing_is_kept_for_a_gradient_of_the_released_forms_noisy_pass(vlms):
    vlm = vlms["llava"]
    branch, rows = Branches(vlm), [branches.encode(vlm, a_pair(s)) for s in (1, 2)]
    kept, scores = {}, {}
    for form in ("dpo", "released", "paper"):
        kept[form], scores[form] = kept_for_backward(branch, a_batch(vlm, branch, rows, form), form)
    assert kept["released"] < 1.1 * kept["dpo"] and kept["paper"] > 1.4 * kept["dpo"]
    assert scores["released"]["policy_noise"].requires_grad and not scores["released"]["reference_noise"].requires_grad


def test_the_reference_scores_the_policys_tokens_or_its_own(vlms):
    vlm = vlms["llava"]
    branch, rows = Branches(vlm), [branches.encode(vlm, a_pair(s)) for s in range(4)]
    batch = a_batch(vlm, branch, rows, "released")
    theirs, own = (branch.step(**batch, form="released", own_tokens=own) for own in (False, True))
    assert torch.equal(theirs["policy_noise"], own["policy_noise"])
    assert not torch.equal(theirs["reference_noise"], own["reference_noise"])
    with vlm.adapter_off():   # policy and reference are one: the same tokens either way
        same = [branch.step(**batch, form="released", own_tokens=own) for own in (False, True)]
    for scores in same: assert torch.allclose(scores["policy_noise"], scores["reference_noise"])


def test_a_prompt_is_tokenised_once_and_answers_get_the_tokens_they_have_behind_the_whole_prompt(vlms, monkeypatch):
    for name in ARCHITECTURES:
        vlm, seen = vlms[name], []
        read = type(vlm.tokenizer).__call__
        with monkeypatch.context() as m:
            m.setattr(type(vlm.tokenizer), "__call__",
                      lambda self, text, *a, **k: seen.extend([text] if isinstance(text, str) else text)
                      or read(self, text, *a, **k))
            for seed in range(6):
                pair = a_pair(seed)
                pair = Pair(Example(pair.image, f"please {pair.prompt} now?", pair.chosen), pair.rejected)
                seen.clear()
                row = branches.encode(vlm, pair)
                assert sum(pair.prompt in text for text in seen) == 1, name
                whole = [vlm.tokens_after(vlm.text(pair.prompt), vlm.between() + a) + [vlm.end_id()]
                         for a in (pair.chosen, pair.rejected)]
                assert [row.chosen, row.rejected] == whole, name


def test_a_deep_copy_scores_with_its_own_weights(vlms):
    vlm = vlms["llava"]
    branch = Branches(vlm)
    batch = branch.collate([branches.encode(vlm, a_pair(1))])
    before = vlm.model(branches=batch)["policy"].detach()
    other = copy.deepcopy(vlm.base)
    with torch.no_grad():
        for layer in other.model.language_model.layers: layer.mlp.down_proj.base_layer.weight.zero_()
    assert torch.equal(vlm.model(branches=batch)["policy"], before)
    ids = torch.tensor([[1, 5, 6, 7]])
    assert not torch.allclose(other(input_ids=ids).logits, vlm.base(input_ids=ids).logits)


@pytest.mark.parametrize("plain", [False, True], ids=["packed", "plain"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradient_checkpointing_keeps_less_and_changes_nothing(name, plain):
    "What autograd keeps of a step falls to about what stands between the layers, packed as well as plain"
    vlm = with_adapter(tiny_models.load(name))
    branch, rows = Branches(vlm, plain=plain), [branches.encode(vlm, a_pair(s)) for s in (1, 2)]
    found = []
    for checkpointing in (False, True):
        vlm.model.train()
        if checkpointing: vlm.base.gradient_checkpointing_enable({"use_reentrant": False})
        kept, scores = kept_for_backward(branch, a_batch(vlm, branch, rows, "dpo"), "dpo")
        found.append((kept, gradients(vlm, loss_of(scores, "dpo"))))
    (before, g), (after, h) = found
    assert after < .5 * before and (g - h).norm() / g.norm() < 1e-5


@pytest.mark.parametrize("name", PACKED)
def test_each_pass_is_repeated_with_its_own_places(name):
    "Two passes of other lengths before one backward: each layer is run again with what was read in its own pass"
    vlm = with_adapter(tiny_models.load(name))
    branch, found = Branches(vlm), []
    batch = a_batch(vlm, branch, [branches.encode(vlm, a_pair(s)) for s in (3, 8)], "paper")
    assert batch["clean"]["ids"].shape != batch["noisy"]["ids"].shape
    for checkpointing in (False, True):
        vlm.model.train()
        if checkpointing: vlm.base.gradient_checkpointing_enable({"use_reentrant": False})
        found.append(gradients(vlm, loss_of(branch.step(**batch, form="mdpo"), "mdpo")))
    assert (found[0] - found[1]).norm() / found[0].norm() < 1e-5


def test_every_layer_is_checkpointed_once(vlms):
    vlm = with_adapter(tiny_models.load("llava"))
    branch = Branches(vlm)
    batch, calls = branch.collate([branches.encode(vlm, a_pair(1))]), []
    vlm.model.train()
    vlm.base.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in vlm.part("language_model").layers:
        layer._gradient_checkpointing_func = lambda f, *args, run=layer._gradient_checkpointing_func: calls.append(
            1) or run(f, *args)
    branch.step(**batch)
    assert len(calls) == len(vlm.part("language_model").layers)    # the policy; the reference keeps nothing anyway


def test_in_half_precision_it_is_as_right_as_the_plain_form(vlms):
    vlm = with_adapter(tiny_models.load("llava"))
    rows = [branches.encode(vlm, a_pair(s)) for s in (1, 2, 3)]
    exact = (b := Branches(vlm, plain=True)).step(**b.collate(rows))["policy"].detach()
    with torch.autocast("cpu", torch.bfloat16):
        plain, packed = ((b := Branches(vlm, plain=p)).step(**b.collate(rows))["policy"].detach()
                         for p in (True, False))
    assert packed.dtype == torch.float32
    assert (packed - exact).abs().mean() < 2 * (plain - exact).abs().mean() + 1e-3


# ---- Caches ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PACKED)
def test_a_cached_reference_changes_nothing(vlms, name, tmp_path):
    vlm, branch = vlms[name], Branches(vlms[name])
    rows = [branches.encode(vlm, a_pair(s)) for s in range(5)]
    cache = Cache(tmp_path, branch, "features")
    cache.fill(rows, batch_size=2)
    again = Cache(tmp_path, branch, "features")   # another process, later
    keys = [row.key() for row in rows]
    assert all(key in again for key in keys)
    for form in ("dpo", "released", "paper"):
        batch = a_batch(vlm, branch, rows, form)
        without = branch.step(**batch, form=form)
        found = branch.step(**batch, form=form, cached=again.recall(keys, batch["clean"]))
        for k in without:
            if isinstance(without[k], torch.Tensor) and without[k].is_floating_point():
                assert (without[k] - found[k]).abs().max() < 2e-5, (form, k)
        grads = [gradients(vlm, loss_of(s, form)) for s in (without, found)]
        assert (grads[0] - grads[1]).norm() / grads[0].norm() < 1e-5


def test_only_the_released_form_keeps_vectors(vlms, tmp_path):
    """Seventeen thousand answers of a 7B model would fill 15 GB with them. A cache made without is completed, not
    trusted"""
    vlm, branch = vlms["llava"], Branches(vlms["llava"])
    rows = [branches.encode(vlm, a_pair(s)) for s in range(3)]
    keys, batch = [row.key() for row in rows], branch.collate(rows)
    small = Cache(tmp_path, branch, vectors=False)
    small.fill(rows)
    assert set(small.recall(keys, batch["clean"])) == {"token_logps"}
    found = branch.step(**batch, cached=small.recall(keys, batch["clean"]))
    assert torch.allclose(found["reference"], branch.step(**batch)["reference"], atol=2e-5)
    whole = Cache(tmp_path, branch)
    assert not any(key in whole for key in keys)
    whole.fill(rows)
    assert set(whole.recall(keys, batch["clean"])) == {"token_logps", "hidden"}


def test_filling_a_cache_never_holds_more_than_a_batch(vlms, tmp_path):
    "Seventeen thousand pictures as tensors would not fit: a row is asked for only when those before it are scored"
    vlm, branch = vlms["llava"], Branches(vlms["llava"])
    cache, scored = Cache(tmp_path, branch), []
    def rows():
        for s in range(5):
            scored.append(len(cache.waiting) // len(cache.keep))
            yield branches.encode(vlm, a_pair(s))
    cache.fill(rows(), batch_size=2)
    assert scored == [0, 0, 2, 2, 4]


def test_writing_more_opens_nothing_again(vlms, tmp_path, monkeypatch):
    """Each write is a file of its own, known without a look; the files that are there are opened once, whoever
    comes later"""
    from povid_nb import cache as module
    opened, own = [], module.safe_open
    monkeypatch.setattr(module, "safe_open", lambda file, *how: opened.append(file) or own(file, *how))
    rows = [branches.encode(vlms["llava"], a_pair(s)) for s in range(6)]
    cache = Cache(tmp_path, Branches(vlms["llava"]))
    for row in rows: cache.fill([row])
    assert len(list(cache.folder.glob("*.safetensors"))) == 6
    assert all(row.key() in cache for row in rows)
    assert not opened
    again = Cache(tmp_path, cache.branches)
    again.refresh()
    assert len(again) == 6 and len(opened) == len(set(opened)) == 6


def test_the_cache_is_used(vlms, tmp_path, monkeypatch):
    "With a cache, the language model runs once for plain DPO, and the tower not at all"
    vlm, branch = vlms["llava"], Branches(vlms["llava"])
    rows = [branches.encode(vlm, a_pair(s)) for s in (1, 2)]
    cache = Cache(tmp_path, branch, "features")
    cache.fill(rows)
    batch, calls = branch.collate(rows), []
    monkeypatch.setattr(Branches, "hidden",
                        lambda self, *a, f=Branches.hidden: calls.append("language") or f(self, *a))
    monkeypatch.setattr(Branches, "look", lambda self, *a, f=Branches.look: calls.append("tower") or f(self, *a))
    branch.step(**batch, cached=cache.recall([r.key() for r in rows], batch["clean"]))
    assert calls == ["language"]
    branch.step(**batch)
    assert calls == ["language", "tower", "language", "language"]


def test_what_the_cache_depends_on(vlms, tmp_path):
    vlm = with_adapter(tiny_models.load("llava"))
    print_of = fingerprint
    before = print_of(vlm)
    for name, p in vlm.model.named_parameters():
        if "lora_" in name: torch.nn.init.zeros_(p)
    assert print_of(vlm) == before, "the adapter in training is not part of the reference"
    with torch.no_grad(): vlm.base.lm_head.weight[3, 5] += 1e-3
    assert print_of(vlm) != before
    row = branches.encode(vlm, a_pair(1))
    keys = {row.key()}
    for change in ("chosen", "rejected", "prompt"):
        other = copy.deepcopy(row)
        getattr(other, change)[0] += 1
        keys.add(other.key())
    other = copy.deepcopy(row)
    other.images["pixel_values"][0, 0, 0, 0] += 1e-3
    assert len(keys | {other.key()}) == 5


@pytest.mark.parametrize("inside, targets", [("tower", "q_proj"), ("projector", "linear_1")])
def test_a_cache_is_refused_where_the_picture_part_learns(inside, targets, tmp_path):
    vlm = with_adapter(tiny_models.load("llava"), targets, inside)
    branch = Branches(vlm)
    with pytest.raises(ValueError, match="tower or the projector .* is trained"): Cache(tmp_path, branch)
    values, grads = compare(vlm, [branches.encode(vlm, a_pair(s)) for s in (1, 2)], "paper")
    assert values < 2e-5 and grads < 2e-5, "scores stay right, with a gradient for the picture part"


def test_a_cache_is_refused_where_rows_are_not_shared(vlms, tmp_path):
    with pytest.raises(ValueError, match="plain=True"): Cache(tmp_path, Branches(vlms["llava"], plain=True))


# ---- Refusals -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("change, limit, words", [
    (dict(image="gone.png"), None, "pair p: no image file at gone.png"),
    (dict(), 10, "pair p: the prompt has .* 16 of them the picture's, .* cutting it would cut the picture"),
    (dict(), -1, "pair p: prompt and chosen answer have .* tokens and max_length is")])
def test_pairs_that_cannot_be_scored_are_refused_in_one_line(vlms, change, limit, words):
    pair = Pair(Example(change.get("image", a_pair(1).image), "describe the plate",
                        "red fork on the left of the plate", id="p"), "blue")
    if limit == -1:   # one token too few for the longer answer
        row = branches.encode(vlms["llava"], pair)
        limit = len(row.prompt) + len(row.chosen) - 1
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        branches.encode(vlms["llava"], pair, max_length=limit)
    assert "\n" not in str(error.value)


def test_answers_that_are_the_same_tokens_are_refused(vlms):
    pair = Pair(Example(a_pair(1).image, "describe", "red fork", id="p"), "red fork\n")
    with pytest.raises(ValueError, match="pair p: chosen and rejected are the same tokens"):
        branches.encode(vlms["llava"], pair)


# ---- Noise while decoding -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ARCHITECTURES)
def test_contrast_against_a_hand_made_loop(vlms, name):
    vlm, image, prompt = vlms[name], a_pair(7).image, "describe the plate"
    hide = lambda values: noise.noisy_rows(values[None], [600], ["0"])[0]
    came = vcd.contrast(vlm, image, prompt, noise_step=600, alpha=1., beta=.2, max_new_tokens=5)
    ids = []
    for _ in range(5):
        logits = []
        for pixels in (None, hide):
            batch = vlm.append(vlm.inputs(image, prompt, pixels=pixels), [ids])
            batch.pop("answer_mask")
            with torch.no_grad(): logits.append(vlm.model(**batch).logits[0, -1])
        clean, noisy = logits
        mixed = 2 * clean - noisy
        mixed[clean.softmax(-1) < .2 * clean.softmax(-1).max()] = -torch.inf
        ids.append(int(mixed.argmax()))
        if ids[-1] == vlm.end_id(): break
    assert came == vlm.tokenizer.decode(ids, skip_special_tokens=True).strip()
    plain = vcd.contrast(vlm, image, prompt, alpha=0., max_new_tokens=5)
    assert plain == vlm.describe(image, prompt, max_new_tokens=5)


def test_the_check_of_packed_rows_is_not_rounded_by_autocast():
    from povid_nb.vlm import VLM
    with torch.autocast("cpu", torch.bfloat16): assert Branches(VLM.load()).why_plain is None
    assert Branches(VLM.load(), plain=True).why_plain == "plain=True"
