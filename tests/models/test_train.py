"""The trainer against TRL's `DPOTrainer`, against six plain forwards, and against a computation in double precision;
then what must stay still, what must be refused, and what must be written."""
import copy, json, math, random, shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import TrainerCallback

from povid_nb import stages, train
from povid_nb.branches import Branches, encode
from povid_nb.dpo import Logps
from povid_nb.formats import as_pairs
from povid_nb.pairs import Example, Pair
from povid_nb.train import PairData, PovidConfig, PovidTrainer

import tiny_models

WORDS = ("red fork on the left of plate there is a green cup two spoons knife no describe dog bench tree blue "
         "laptop . ?".split())


def some_pairs(n, seed=0):
    rng = random.Random(seed)
    text = lambda low=2: " ".join(rng.choices(WORDS, k=rng.randint(low, 9)))
    image = lambda: Image.frombytes("RGB", (40, 40), rng.randbytes(4800))
    return [Pair(Example(image(), text(), text(), id=f"p{i}"), "not " + text()) for i in range(n)]


def fresh(name="llava", rank=3, std=.15):
    "A tiny VLM with an adapter that differs from nothing"
    vlm = stages.add_adapter(tiny_models.load(name), rank=rank, lora_alpha=2 * rank)
    torch.manual_seed(1)
    for n, p in vlm.model.named_parameters():
        if "lora_B" in n: torch.nn.init.normal_(p, std=std)
    return vlm


def config(folder, **options):
    defaults = dict(output_dir=str(folder), form="dpo", per_device_train_batch_size=4, learning_rate=.05, optim="sgd",
                    lr_scheduler_type="constant",
                    max_steps=4, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True,
                    disable_tqdm=True, max_grad_norm=0., train_sampling_strategy="sequential", seed=0)
    return PovidConfig(**defaults | options)


def adapter_of(model): return {n: p for n, p in model.named_parameters() if "lora_" in n}
def flat(tensors): return torch.cat([t.detach().flatten() for t in tensors])
def losses(trainer): return [log["loss"] for log in trainer.state.log_history if "loss" in log]


# ---- TRL ------------------------------------------------------------------------------------------------------------

def test_plain_dpo_is_trls_after_several_steps(tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset, Features, Image as ImageFeature, List, Value
    some = some_pairs(16)
    ours = fresh()
    theirs, start = tiny_models.load("llava"), {n: p.detach().clone() for n, p in adapter_of(ours.model).items()}

    trainer = PovidTrainer(ours, config(tmp_path/"ours"), some)
    kept = []
    compute = trainer.compute_loss
    trainer.compute_loss = lambda *a, **k: kept.append(compute(*a, **k)) or kept[-1]
    trainer.train()

    part = [{"type": "text", "text": Value("string")}]
    rows = [{"images": [p.image], "prompt": [{"role": "user", "content": p.prompt}],
             "chosen": [{"role": "assistant", "content": p.chosen}],
             "rejected": [{"role": "assistant", "content": p.rejected}]} for p in some]
    args = trl.DPOConfig(output_dir=str(tmp_path/"trl"), per_device_train_batch_size=4, learning_rate=.05, optim="sgd",
                         lr_scheduler_type="constant", max_steps=4,
                         logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
                         max_grad_norm=0., bf16=False,
                         gradient_checkpointing=False, max_length=None, train_sampling_strategy="sequential", beta=.1)
    reference = trl.DPOTrainer(theirs.model, args=args, train_dataset=Dataset.from_list(rows),
                               processing_class=theirs.processor, peft_config=ours.model.peft_config["default"])
    names = dict(reference.model.named_parameters())
    with torch.no_grad():
        for n, value in start.items(): names[n].copy_(value)
    their_losses, compute_theirs = [], reference.compute_loss
    reference.compute_loss = lambda *a, **k: their_losses.append(compute_theirs(*a, **k)) or their_losses[-1]
    reference.train()

    one, other = torch.stack(kept).detach(), torch.stack(their_losses).detach()
    assert (one - math.log(2)).abs().min() > 1e-3, "a loss of log 2 would prove nothing"
    assert (one - other).abs().max() < 1e-5
    moved = flat(adapter_of(ours.model).values()) - flat(start.values())
    # all gradients of all steps, since the optimizer is plain SGD
    theirs_moved = flat(adapter_of(reference.model).values()) - flat(start.values())
    assert moved.norm() > 1e-3 and (moved - theirs_moved).norm() / theirs_moved.norm() < 1e-4
    logged = [{k: log[k]
               for k in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
                         "logps/rejected")}
              for t in (trainer, reference) for log in t.state.log_history if "rewards/chosen" in log][:8]
    for mine, trls in zip(logged[:4], logged[4:]): assert mine == pytest.approx(trls, abs=2e-3)


@pytest.mark.parametrize("form", ["dpo", "released"])
def test_the_cached_reference_is_computed_in_the_policys_precision(tmp_path, form):
    "Under autocast a policy that has learnt nothing equals its reference; a reference of another precision would not"
    def first(cache):
        trainer = PovidTrainer(fresh(std=0),
                               config(tmp_path/f"{cache}", form=form, bf16=True, cache=cache, max_steps=1),
                               some_pairs(4))
        trainer.train()
        logged = trainer.state.log_history[0]
        return [logged[name] for name in ("rewards/chosen", "rewards/rejected")]
    assert first(None) == first("reference") == [0, 0]


def test_trl_formats_are_accepted_as_they_are(tmp_path):
    from datasets import Dataset
    some = some_pairs(3)
    talk = [{"images": [p.image],
             "prompt": [{"role": "user",
                         "content": [{"type": "image", "text": None}, {"type": "text", "text": p.prompt}]}],
             "chosen": [{"role": "assistant", "content": [{"type": "text", "text": p.chosen}]}],
             "rejected": [{"role": "assistant", "content": [{"type": "text", "text": p.rejected}]}]} for p in some]
    plain = [{"image": p.image, "prompt": f"<image>\n{p.prompt}", "chosen": p.chosen, "rejected": p.rejected}
             for p in some]
    for rows in (talk, plain):
        back = as_pairs(Dataset.from_list(rows))
        assert [(p.prompt, p.chosen, p.rejected) for p in back] == [(p.prompt, p.chosen, p.rejected) for p in some]


# ---- POVID ----------------------------------------------------------------------------------------------------------

def six_forwards(vlm, some, noisy, own):
    """The released algorithm, said plainly: three forwards of the policy, three of the reference, whole logits, one
    pair at a time"""
    def scores(pair, answer, pixels=None):
        batch = vlm.inputs(pair.image, pair.prompt, answer)
        mask = batch.pop("answer_mask")[0]
        if pixels is not None: batch["pixel_values"] = pixels
        logits = vlm.model(**batch).logits[0][mask.roll(-1)]    # the position before each answer token
        return logits.log_softmax(-1), batch["input_ids"][0][mask]

    def one(pair, pixels, tokens=None):
        clean, y_w = scores(pair, pair.chosen)
        bad, y_l = scores(pair, pair.rejected)
        blind, _ = scores(pair, pair.chosen, pixels)
        y_n = blind.argmax(-1) if tokens is None else tokens
        at = lambda logps, ids: logps.gather(1, ids[:, None]).sum()
        return Logps(at(clean, y_w), at(bad, y_l), at(clean, y_n)), y_n, at(blind, y_n)

    found = []
    for pair, pixels in zip(some, noisy.split(1)):
        policy, y_n, _ = one(pair, pixels)
        with torch.no_grad(), vlm.adapter_off(): reference, *_ = one(pair, pixels, None if own else y_n)
        D = [p - r for p, r in zip(policy[:3], reference[:3])]
        found.append(-.5 * torch.nn.functional.logsigmoid(.1 * (D[0] - D[1])) - .5
                     * torch.nn.functional.logsigmoid(.1 * (D[0] - D[2])))
    return torch.stack(found).mean()


@pytest.mark.parametrize("own", [False, True])
def test_the_released_form_is_six_plain_forwards(tmp_path, own):
    vlm, some = fresh(), some_pairs(4)
    trainer = PovidTrainer(vlm, config(tmp_path, form="released", own_tokens=own, noise_step=700), some)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    vlm.model.train()
    ours = trainer.compute_loss(vlm.model, batch)
    grads = torch.autograd.grad(ours, list(adapter_of(vlm.model).values()))
    noisy = trainer._branch_inputs(batch)["noisy_images"]["pixel_values"]
    plain = six_forwards(vlm, some, noisy, own)
    plain_grads = torch.autograd.grad(plain, list(adapter_of(vlm.model).values()))
    assert abs(ours - plain) < 1e-5 and abs(ours - math.log(2)) > 1e-3
    assert (flat(grads) - flat(plain_grads)).norm() / flat(plain_grads).norm() < 1e-4


def test_the_papers_form_against_double_precision(tmp_path):
    vlm, some = fresh(), some_pairs(4)
    trainer = PovidTrainer(vlm, config(tmp_path, form="paper", noise_step=700, alpha=.2, beta1=.07, beta2=.11), some)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    vlm.model.train()
    ours = trainer.compute_loss(vlm.model, batch)
    noisy = trainer._branch_inputs(batch)["noisy_images"]["pixel_values"]
    exact = copy.copy(vlm)
    exact.model = copy.deepcopy(vlm.model).double()

    def D(pair, answer, pixels=None, ids=None):
        inputs = exact.inputs(pair.image, pair.prompt, answer)
        if pixels is not None: inputs["pixel_values"] = pixels.double()
        mask = inputs.pop("answer_mask")[0]
        with torch.no_grad():
            policy = exact.model(**inputs).logits[0][mask.roll(-1)].log_softmax(-1)
            with exact.adapter_off(): reference = exact.model(**inputs).logits[0][mask.roll(-1)].log_softmax(-1)
        tokens = inputs["input_ids"][0][mask] if ids is None else policy.argmax(-1)
        return float((policy - reference).gather(1, tokens[:, None]).sum())

    by_hand = [math.log1p(math.exp(-(.2 * D(p, p.chosen) - .07 * D(p, p.rejected) - .11
                                     * D(p, p.chosen, pixels, "argmax"))))
               for p, pixels in zip(some, noisy.split(1))]
    assert float(ours) == pytest.approx(sum(by_hand) / 4, abs=1e-5)


# ---- What stays still -----------------------------------------------------------------------------------------------

def test_the_control_learns_the_right_answers_alone(tmp_path):
    "Its loss is the negative log-probability per token by the model's own forward; the lies play no part"
    found = []
    for data in (some := some_pairs(4), [Pair(pair.example, "quite another lie") for pair in some]):
        vlm = fresh()
        trainer = PovidTrainer(vlm, config(tmp_path, form="sft"), data)
        vlm.model.eval()
        found.append(trainer.compute_loss(vlm.model,
                                          trainer.data_collator([trainer.train_dataset[i] for i in range(4)])).item())
    with torch.no_grad(): by_hand = [-vlm.token_logps(vlm.inputs(p.image, p.prompt, p.chosen))[0].mean() for p in some]
    assert found[0] == found[1] == pytest.approx(torch.stack(by_hand).mean().item(), abs=1e-5)


@pytest.mark.parametrize("form", ["dpo", "released", "paper", "mdpo"])
def test_training_starts_at_log_two_and_changes_nothing_but_the_adapter(tmp_path, form):
    vlm = stages.add_adapter(tiny_models.load("llava"), rank=3)
    before = {n: v.clone() for n, v in vlm.model.state_dict().items()}
    trainer = PovidTrainer(vlm, config(tmp_path, form=form, max_steps=2, optim="adamw_torch", learning_rate=1e-2),
                           some_pairs(8))
    trainer.train()
    log2 = math.log(2) * (3 if form == "mdpo" else 1)
    first = losses(trainer)[0]
    if form == "mdpo": assert first >= math.log(2)     # its image term has a margin from the start
    else: assert first == pytest.approx(log2, abs=1e-4)
    after = vlm.model.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed and all(".lora_" in n and ".language_model." in n for n in changed)


@pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
def test_the_adapter_is_on_the_language_model_alone(name):
    vlm = stages.add_adapter(tiny_models.load(name), rank=2)
    path, named = vlm.paths(), [n for n, p in vlm.base.named_parameters() if p.requires_grad]
    assert named and all(n.startswith(path["language_model"] + ".") and ".lora_" in n for n in named)
    layers = {n.split(".lora_")[0] for n in named}
    linear = ({n for n, m in vlm.part("language_model").named_modules() if hasattr(m, "base_layer")}
              | {n for n, m in vlm.part("language_model").named_modules() if type(m).__name__ == "Linear"
                 and "lora" not in n and "base_layer" not in n})
    assert len(layers) == len(linear), "every linear layer of the language model has one"


@pytest.mark.parametrize("name", [n for n in tiny_models.ARCHITECTURES])
def test_one_step_of_training_on_each_architecture(tmp_path, name):
    vlm = stages.add_adapter(tiny_models.load(name), rank=2)
    trainer = PovidTrainer(vlm,
                           config(tmp_path, form="released", noise_tokens="moved", max_steps=2,
                                  per_device_train_batch_size=2, learning_rate=1e-2), some_pairs(4))
    trainer.train()
    assert len(losses(trainer)) == 2 and all(math.isfinite(l) for l in losses(trainer))
    assert any(p.abs().max() > 0 for n, p in vlm.model.named_parameters() if "lora_B" in n)


def test_noise_depends_on_pair_epoch_and_seed_and_on_nothing_else(tmp_path):
    args = config(tmp_path, form="paper")
    assert train._noise_of(args, "a", 0, .5) == train._noise_of(args, "a", 0, .9) == (500,
        "a 0") != train._noise_of(args, "a", 1, .5)
    assert train._noise_of(config(tmp_path, form="paper", noise_redraw=False), "a", 3, 0.) == (500, "a")
    rising = config(tmp_path, form="paper", noise_draw="rising", noise_step=[200, 800])
    assert [train._noise_of(rising, "a", 0, p)[0] for p in (0., .5, 1.)] == [200, 500, 800]
    drawn = config(tmp_path, form="paper", noise_draw="random", noise_step=[300, 310])
    steps = [train._noise_of(drawn, f"pair {i}", 0, 0.)[0] for i in range(200)]
    assert set(steps) == set(range(300, 311))
    assert steps == [train._noise_of(drawn, f"pair {i}", 0, .7)[0] for i in range(200)]
    assert steps != [train._noise_of(config(tmp_path, form="paper", noise_draw="random", noise_step=[300, 310],
                                            seed=1), f"pair {i}", 0, 0.)[0] for i in range(200)]


def test_noise_on_the_picture_goes_through_the_processor(tmp_path):
    from povid_nb import noise
    vlm, some = fresh(), some_pairs(2)
    trainer = PovidTrainer(vlm,
                           config(tmp_path, form="released", noise_space="pixels", noise_overflow="wrap",
                                  noise_step=400), some)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    found = trainer._branch_inputs(batch)["noisy_images"]["pixel_values"]
    for i, pair in enumerate(some):
        picture = noise.add_noise(pair.image, 400, f"{batch['keys'][i]} 0", 0, "wrap")
        assert torch.equal(found[i:i+1], vlm.inputs(picture, pair.prompt)["pixel_values"])


@pytest.mark.parametrize("keep", ["reference", "features"])
def test_a_cache_changes_no_loss(tmp_path, keep):
    found = []
    for cache in (None, keep):
        trainer = PovidTrainer(fresh(), config(tmp_path/str(cache), form="released", cache=cache, max_steps=5),
                               some_pairs(8))
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_the_term_of_right_answers_is_a_mean_over_tokens_once(tmp_path, loss_type):
    """Also where the loss itself is one of means: what the weight of the term adds is the mean of -log p over the
    answer's tokens"""
    some = some_pairs(4)
    trainer = PovidTrainer(fresh(), config(tmp_path, loss_type=loss_type), some)
    scores = trainer.branches.step(**trainer._branch_inputs(trainer.data_collator([trainer.train_dataset[i]
        for i in range(4)])))
    vlm, (without, _) = trainer.vlm, train._losses(scores, trainer.args)
    trainer.args.nll_weight = 1.
    found = train._losses(scores, trainer.args)[0] - without
    expected = [-vlm.score(p.image, p.prompt, p.chosen).token_logps.mean() for p in some]
    assert torch.allclose(found, torch.stack(expected), atol=2e-4)


@pytest.mark.parametrize("space", ["processed", "pixels"])
def test_workers_of_the_loader_change_no_loss(tmp_path, space):
    "Rows are read and collated in processes of their own, without the model's weights"
    found = []
    for workers in (0, 2):
        trainer = PovidTrainer(fresh(),
                               config(tmp_path, form="released", noise_space=space, dataloader_num_workers=workers),
                               PairData(fresh(), some_pairs(8), room=0))
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == found[1] and len(set(found[0])) > 1


def test_accumulated_batches_are_one_large_batch(tmp_path):
    found = []
    for size, steps in ((4, 1), (2, 2)):
        vlm = fresh()
        PovidTrainer(vlm,
                     config(tmp_path/str(size), per_device_train_batch_size=size, gradient_accumulation_steps=steps,
                            max_steps=3), some_pairs(12)).train()
        found.append(flat(adapter_of(vlm.model).values()))
    assert torch.allclose(*found, atol=1e-6)


def test_evaluation_logs_the_same_names(tmp_path):
    trainer = PovidTrainer(fresh(), config(tmp_path, form="released", max_steps=1), some_pairs(4),
                           some_pairs(3, seed=9))
    trainer.train()
    seen = trainer.evaluate()
    assert math.isfinite(seen["eval_loss"])
    assert seen == {k: v for k, v in seen.items() if k.startswith("eval_") or k == "epoch"}
    logged = next(log for log in trainer.state.log_history if "eval_loss" in log)
    assert {"eval_rewards/margins", "eval_noise/moved", "eval_rewards/noise_accuracies"} <= logged.keys()


# ---- Two stages -----------------------------------------------------------------------------------------------------

def test_both_stages_and_what_they_leave_behind(tmp_path):
    options = dict(rank=3, batch_size=4, learning_rate=5e-3, use_cpu=True, disable_tqdm=True, logging_steps=1,
                   max_length=None)
    some = some_pairs(8)
    vlm = stages.train(tiny_models.load("llava", tmp_path/"base"), some, tmp_path/"run",
                       stage1=dict(num_train_epochs=2), **options)
    first, second = (stages._read_record(tmp_path/"run"/f"stage{n}") for n in (1, 2))
    assert (first["steps"], second["steps"]) == (4, 2)
    assert first["settings"]["form"] == "dpo"
    assert second["settings"]["form"] == "paper"
    assert first["base"] == second["base"] and first["over"] is None and second["over"], "stage 2 stands on stage 1"
    score = lambda v: [v.score(p.image, p.prompt, p.chosen).logps for p in some[:3]]
    from povid_nb.vlm import VLM
    base, trained = VLM.load(tmp_path/"base"), VLM.load(tmp_path/"base", adapter=tmp_path/"run"/"adapter")
    assert score(trained) == pytest.approx(score(vlm), abs=1e-3)      # one adapter for both stages
    assert score(base) != pytest.approx(score(vlm), abs=1e-2)
    stages.save_model(vlm, tmp_path/"whole")
    assert score(VLM.load(tmp_path/"whole")) == pytest.approx(score(vlm), abs=1e-3)
    text = (tmp_path/"run"/"stage2"/"README.md").read_text()
    assert "base_model:" in text and "2 steps of 4 pairs" in text
    assert not list((tmp_path/"run").glob("stage*/training_args.bin"))

    # done: nothing to do
    again = stages.train(VLM.load(tmp_path/"base"), some, tmp_path/"run", stage1=dict(num_train_epochs=2), **options)
    assert score(again) == pytest.approx(score(vlm), abs=1e-4)
    with pytest.raises(ValueError, match=r"holds a run with other settings .*learning_rate"):
        stages.train(VLM.load(tmp_path/"base"), some, tmp_path/"run", **options | dict(learning_rate=1e-3))
    with pytest.raises(ValueError, match="trained on other weights .* stands on stage 1; take the adapter beside it"):
        stages.put_on_adapter(VLM.load(tmp_path/"base"), tmp_path/"run"/"stage2")
    apart = stages.train(VLM.load(tmp_path/"base"), some, tmp_path/"apart", stage=2, adapter=tmp_path/"run"/"stage1",
                         **options)
    assert score(apart) == pytest.approx(score(vlm), abs=1e-4)


OPTIONS = dict(rank=3, batch_size=4, learning_rate=5e-3, use_cpu=True, disable_tqdm=True)


@pytest.mark.parametrize("name", ["llava", "idefics3", "qwen2_vl"])
def test_a_frozen_first_adapter_gives_what_merging_gives_where_merging_rounds_nothing(tmp_path, name):
    found = {}
    for between in ("merge", "stack"):
        vlm = stages.train(tiny_models.load(name), some_pairs(8), tmp_path/between, between=between,
                           stage1=dict(num_train_epochs=1), **OPTIONS)
        found[between] = [log["loss"] for log in json.loads((tmp_path/between/"stage2"/"log.json").read_text())
                          if "loss" in log]
        found[between,
              "adapter"] = flat(v
                                for _, v in sorted(load_file(tmp_path/between/"adapter"/"adapter_model.safetensors")
                                                   .items()))
        assert sorted(vlm.model.peft_config) == ["default"]
    assert found["merge"] == pytest.approx(found["stack"], abs=1e-5)
    one, other = found["merge", "adapter"], found["stack", "adapter"]
    assert (one - other).norm() / one.norm() < 1e-3


def test_in_16_bits_the_reference_of_stage_2_is_stage_1_to_the_bit(tmp_path):
    "An update too small for bfloat16 weights is lost by merging; the frozen adapter keeps it"
    some = some_pairs(4)
    vlm = tiny_models.load("llava")
    vlm.model.bfloat16()
    assert stages._between(vlm, None) == "stack" and stages._between(tiny_models.load("llava"), None) == "merge"
    stages.add_adapter(vlm, rank=3)
    for n, p in vlm.model.named_parameters():
        if "lora_B" in n: torch.nn.init.normal_(p, std=1e-3)
    vlm.model.save_pretrained(tmp_path/"stage1")
    def scores(vlm):
        branch = Branches(vlm)
        batch = branch.collate([encode(vlm, p) for p in some])
        with torch.no_grad(), branch.reference():
            return branch.score(branch.hidden(batch["clean"], branch.look(batch["images"])), batch["clean"])[0][0]
    def with_first(between):
        vlm = tiny_models.load("llava")
        vlm.model.bfloat16()
        stages._put_under(vlm, tmp_path/"stage1", between)
        PovidTrainer(stages.add_adapter(vlm, rank=3), config(tmp_path, max_steps=2), some).train()
        return vlm
    vlm.model = vlm.model.unload()
    vlm.load_adapter(tmp_path/"stage1")
    wanted = Branches(vlm)
    batch = wanted.collate([encode(vlm, p) for p in some])
    with torch.no_grad():
        wanted = wanted.score(wanted.hidden(batch["clean"], wanted.look(batch["images"])), batch["clean"])[0][0]
    stacked, merged = with_first("stack"), with_first("merge")
    assert torch.equal(scores(stacked), wanted) and not torch.allclose(scores(merged), wanted, atol=1e-3)
    moved = {n.split(".")[-2] for n, p in stacked.model.named_parameters() if "lora_B" in n and p.requires_grad}
    assert moved == {"default"}
    assert all(p.abs().max() > 0 for n, p in stacked.model.named_parameters() if "lora_B.default" in n)
    first = {n: v for n, v in load_file(tmp_path/"stage1"/"adapter_model.safetensors").items()}
    assert all(torch.equal(p, first[n.replace(".reference", "")]) for n, p in stacked.model.named_parameters()
               if ".reference" in n), "frozen"


@pytest.mark.parametrize("between", ["merge", "stack"])
def test_a_run_stopped_in_stage_2_ends_with_the_same_bits(tmp_path, between):
    import os, signal
    class Press(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if args.output_dir.endswith("stage2") and state.global_step == 2: os.kill(os.getpid(), signal.SIGTERM)
    options = (OPTIONS
               | dict(batch_size=2, between=between, stage1=dict(max_steps=2),
                      stage2=dict(form="released", max_steps=5)))
    stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"whole", **options)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3 of 5"):
        stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"cut", callbacks=[Press()], **options)
    checkpoint = tmp_path/"cut"/"stage2"/"checkpoint-3"
    assert (checkpoint/"adapter_model.safetensors").exists() and not (checkpoint/"reference").exists(), (
        "a checkpoint holds the adapter that trains and no other")
    stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"cut", **options)
    for name in ("stage1", "stage2", "adapter"):
        whole, cut = (load_file(tmp_path/run/name/"adapter_model.safetensors") for run in ("whole", "cut"))
        assert whole.keys() == cut.keys() and all(torch.equal(whole[k], cut[k]) for k in whole), name


# ---- Refusals -------------------------------------------------------------------------------------------------------

def one_line(error): return "\n" not in str(error.value)


def test_bad_pairs_are_set_aside_before_training_and_leave_no_trace(tmp_path):
    """A missing picture, a cut one, equal answers and an answer too long: the others train as if these had never
    been there"""
    good = some_pairs(6)
    good[0].example.image.save(tmp_path/"cut.png")
    (tmp_path/"cut.png").write_bytes((tmp_path/"cut.png").read_bytes()[:-2000])
    bad = [Pair(Example("gone.png", "what", "a fork", id="lost"), "a knife"),
           Pair(Example(str(tmp_path/"cut.png"), "what", "a fork", id="cut"), "a knife"),
           Pair(Example(good[0].image, "what", "a fork", id="same"), "a fork\n"),
           Pair(Example(good[0].image, "what", "red " * 600, id="long"), "a knife")]
    with pytest.warns(UserWarning,
                      match="4 of 10 pairs were set aside; the first: pair lost: no image file at gone.png"):
        data = PairData(fresh(), [bad[0], *good[:3], *bad[1:3], *good[3:], bad[3]])
    assert data.pairs == good
    assert [id for id, _ in data.refused] == ["lost", "cut", "same", "long"]
    assert all(id in why for id, why in data.refused)
    assert [data[i]["key"] for i in range(6)] == [PairData(fresh(), good)[i]["key"] for i in range(6)]
    options = dict(stage=1, rank=3, batch_size=2, use_cpu=True, disable_tqdm=True, max_steps=4, save_steps=2)
    with pytest.warns(UserWarning, match="set aside"):
        stages.train(tiny_models.load("llava"), [*good, *bad], tmp_path/"run", **options)
    weights = (tmp_path/"run"/"adapter"/"adapter_model.safetensors").read_bytes()
    # the bad ones taken out: the same run, and done
    stages.train(tiny_models.load("llava"), good, tmp_path/"run", **options)
    assert (tmp_path/"run"/"adapter"/"adapter_model.safetensors").read_bytes() == weights


def test_what_cannot_be_trained_is_refused(tmp_path):
    vlm, good = fresh(), some_pairs(2)
    gone = Pair(Example("gone.png", "what", "a fork", id="lost"), "a knife")
    said = "none of the 1 pairs can be used; the first: pair lost: no image file at gone.png"
    with pytest.raises(ValueError, match=said) as error:
        PovidTrainer(vlm, config(tmp_path), [gone])
    assert one_line(error)
    with pytest.raises(ValueError, match="max_length is 20: cutting it would cut the picture"):
        PovidTrainer(vlm, config(tmp_path, max_length=20), good)
    with pytest.raises(ValueError, match="no pairs"): PovidTrainer(vlm, config(tmp_path), [])
    with pytest.raises(ValueError, match="no adapter, so nothing would stand still"):
        PovidTrainer(tiny_models.load("llava"), config(tmp_path), good)


def test_a_4_bit_model_keeps_stage_1_beside_its_weights(tmp_path):
    vlm = tiny_models.load("llava")
    vlm.base.is_loaded_in_4bit = True
    for stage in ("both", 2):
        with pytest.raises(ValueError, match="use between='stack', or load the model without quantize"):
            stages.train(vlm, some_pairs(2), tmp_path/"out", stage, between="merge")
    assert not (tmp_path/"out").exists() and stages._between(vlm, None) == "stack"
    with pytest.raises(ValueError, match="without quantize"): stages.save_model(vlm, tmp_path/"out")


def test_a_loss_that_is_not_a_number_stops_the_step(tmp_path):
    vlm = fresh()
    trainer = PovidTrainer(vlm, config(tmp_path, learning_rate=1e30), some_pairs(12))
    with pytest.raises(FloatingPointError,
                       match=r"not a number at step \d+ \(pairs p\d.*: the policy went wrong first") as error:
        trainer.train()
    assert one_line(error)


@pytest.mark.parametrize("options, words", [
    (dict(form="code"), "unknown form 'code'; use one of: sft, dpo, released, paper, mdpo"),
    (dict(form="paper", noise_step=1000), "0 .nearly clean. to 999"),
    (dict(form="paper", noise_draw="random"), "wants two noise steps"),
    (dict(form="paper", noise_tokens="few"), "use one of: all, differ, moved"),
    (dict(beta=-1.), "beta is -1.0; expected 0 or more"),
    (dict(loss_type="sigmod"), "unknown loss_type 'sigmod'; use one of: sigmoid, robust, ipo, hinge"),
    (dict(form="paper", loss_type="ipo"), "form='paper' does not take loss_type, which belongs to dpo; leave it out"),
    (dict(form="mdpo", own_tokens=True), "form='mdpo' does not take own_tokens, which belongs to released, paper"),
    (dict(form="sft", cache="reference"),
     "form='sft' does not take cache, which belongs to dpo, released, paper, mdpo"),
    (dict(noise_step=700), "form='dpo' does not take noise_step, which belongs to released, paper, mdpo")])
def test_settings_that_make_no_sense(tmp_path, options, words):
    with pytest.raises(ValueError, match=words): config(tmp_path, **options)


def test_more_refusals(tmp_path):
    vlm = tiny_models.load("llava")
    with pytest.raises(ValueError, match="unknown stage 3"): stages.train(vlm, some_pairs(2), tmp_path, stage=3)
    with pytest.raises(ValueError, match="unknown setting learnig_rate"):
        stages.train(vlm, some_pairs(2), tmp_path, learnig_rate=1)
    with pytest.raises(RuntimeError, match="has 1 process, expected 2"):
        stages.train(vlm, some_pairs(2), tmp_path, processes=2)
    with pytest.raises(ValueError, match="has an adapter already"): stages.add_adapter(fresh())


STOPPED = dict(stage=1, rank=3, batch_size=2, use_cpu=True, disable_tqdm=True, max_steps=6, save_steps=2)


def weights(folder): return (folder/"adapter"/"adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    "The weights of a run, and its folder as it was when two checkpoints of three were written"
    folder = tmp_path_factory.mktemp("undisturbed")
    class Copy(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if state.global_step == 5: shutil.copytree(folder/"run", folder/"copy")
    stages.train(tiny_models.load("llava"), some_pairs(8), folder/"run", callbacks=[Copy()], **STOPPED)
    return weights(folder/"run"), folder/"copy"


def cut(file): file.write_bytes(file.read_bytes()[:len(file.read_bytes()) // 2])
def flip(file): file.write_bytes(bytes([*file.read_bytes()[:-3], file.read_bytes()[-3] ^ 1, *file.read_bytes()[-2:]]))


@pytest.mark.parametrize("file",
                         ["adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
                          "trainer_state.json", "measured-0.json", "whole.json"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(undisturbed, tmp_path, file, damage):
    wanted, copy = undisturbed
    shutil.copytree(copy, tmp_path/"run")
    assert stages._last_checkpoint(tmp_path/"run"/"stage1").endswith("checkpoint-4")
    damage(tmp_path/"run"/"stage1"/"checkpoint-4"/file)
    with pytest.warns(UserWarning, match="checkpoint-4 is passed over: "):
        assert stages._last_checkpoint(tmp_path/"run"/"stage1").endswith("checkpoint-2")
    if damage is not cut: return
    with pytest.warns(UserWarning, match="passed over"):
        stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"run", **STOPPED)
    assert weights(tmp_path/"run") == wanted


def test_without_a_whole_checkpoint_it_begins_at_the_beginning(undisturbed, tmp_path):
    wanted, copy = undisturbed
    shutil.copytree(copy, tmp_path/"run")
    for step in (2, 4): (tmp_path/"run"/"stage1"/f"checkpoint-{step}"/"optimizer.pt").unlink()
    with pytest.warns(UserWarning, match="checkpoint-2 is passed over: optimizer.pt is missing"):
        stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"run", **STOPPED)
    assert weights(tmp_path/"run") == wanted and stages._last_checkpoint(tmp_path/"none") is None


def lines(folder):
    "What was logged, without the speed"
    return [{name: value for name, value in line.items() if "_per_" not in name and name != "train_runtime"}
            for line in json.loads((folder/"stage1"/"log.json").read_text())]


@pytest.mark.parametrize("logging_steps", [3, 50])
def test_resumed_between_two_logged_lines_it_logs_the_same_lines(tmp_path, logging_steps):
    """The process dies at step 5 of 6, after the checkpoint of step 4: the means of the second line are over steps
    4 to 6, those of the last over all"""
    class Killed(BaseException): pass
    class Die(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if state.global_step == 4: raise Killed
    options = STOPPED | dict(logging_steps=logging_steps, gradient_accumulation_steps=2, batch_size=1)
    stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"alone", **options)
    with pytest.raises(Killed):
        stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"run", callbacks=[Die()], **options)
    stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"run", **options)
    alone, resumed = lines(tmp_path/"alone"), lines(tmp_path/"run")
    assert [line["step"] for line in alone] == ([3, 6, 6] if logging_steps == 3 else [6])
    assert "train_loss" in alone[-1] and ("loss" in alone[0]) == (logging_steps == 3)
    assert resumed == alone


def test_the_logged_losses_are_those_of_each_step(tmp_path):
    "Against the losses that `compute_loss` returned, with the last batch of an epoch cut short"
    vlm, some = fresh(), some_pairs(7)
    trainer = PovidTrainer(vlm,
                           config(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=2,
                                  logging_steps=2, max_steps=4), some)
    found, compute = [], trainer.compute_loss
    trainer.compute_loss = lambda *a, **k: found.append(compute(*a, **k)) or found[-1]
    trainer.train()
    kept = torch.stack(found).detach()
    assert losses(trainer) == pytest.approx([kept[:4].mean().item(), kept[4:].mean().item()], abs=1e-6)
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(kept.mean().item(), abs=1e-6)


@pytest.mark.parametrize("left", range(8))
def test_a_kill_at_any_write_of_the_last_save_can_be_resumed(undisturbed, tmp_path, monkeypatch, left):
    "The process dies before the n-th file that is written after the last step; the same call then finishes the run"
    wanted, _ = undisturbed
    from povid_nb import procs
    class Killed(BaseException): pass
    written = []
    def dies(path, fill, whole=procs._whole):
        if armed: written.append(path)
        if len(written) > left: raise Killed
        return whole(path, fill)
    class Arm(TrainerCallback):
        def on_train_end(self, args, state, control, **others): armed.append(True)
    armed = []
    monkeypatch.setattr(procs, "_whole", dies)
    try: stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path, callbacks=[Arm()], **STOPPED)
    except Killed: assert len(written) == left + 1
    else: assert left > 5, "there are fewer files than that"
    monkeypatch.undo()
    stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path, **STOPPED)
    assert weights(tmp_path) == wanted and stages._read_record(tmp_path/"stage1")["steps"] == 6
    assert json.loads((tmp_path/"stage1"/"log.json").read_text())[-1]["step"] == 6


def test_a_changed_bit_in_a_finished_stage_is_noticed(tmp_path):
    stages.train(tiny_models.load("llava"), some_pairs(4), tmp_path, **STOPPED | dict(max_steps=1))
    flip(tmp_path/"stage1"/"adapter_model.safetensors")
    with pytest.raises(ValueError,
                       match="stage1 is damaged: adapter_model.safetensors has changed since it was written"):
        stages.train(tiny_models.load("llava"), some_pairs(4), tmp_path, **STOPPED | dict(max_steps=1))


@pytest.mark.parametrize("change",
                         [dict(data_seed=3), dict(lr_scheduler_kwargs={"num_cycles": 1.}), dict(adam_beta1=.8),
                          dict(adam_epsilon=1e-6), dict(batch_size=1, gradient_accumulation_steps=2),
                                    dict(weight_decay=.1), dict(nll_weight=.5), dict(learning_rate=1e-3),
                          dict(train_sampling_strategy="sequential")], ids=str)
def test_what_decides_a_run_may_not_change_in_its_middle(undisturbed, tmp_path, change):
    shutil.copytree(undisturbed[1], tmp_path/"run")
    with pytest.raises(ValueError, match="holds a run with other settings"):
        stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"run", **STOPPED | change)


def test_what_decides_nothing_may(undisturbed, tmp_path):
    wanted, copy = undisturbed
    shutil.copytree(copy, tmp_path/"run")
    stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path/"run",
                 **STOPPED | dict(logging_steps=1, save_steps=3, gradient_checkpointing=True))
    ours, theirs = (load_file(f)
                    for f in (tmp_path/"run"/"adapter"/"adapter_model.safetensors",
                              tmp_path/"run"/"stage1"/"adapter_model.safetensors"))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours) and weights(tmp_path/"run") == wanted


def test_it_saves_when_time_is_up(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 25))          # every look at the clock is 25 seconds later
    monkeypatch.setattr(train.time, "monotonic", lambda: next(clock))
    args = {k: v for k, v in STOPPED.items() if k != "save_steps"}
    stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path, save_minutes=1., **args)
    assert {f.name for f in (tmp_path/"stage1").glob("checkpoint-*")} == {"checkpoint-3"}


def test_ctrl_c_finishes_the_step_and_saves(tmp_path):
    import os, signal
    class Press(TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if state.global_step == 2: os.kill(os.getpid(), signal.SIGINT)
    options = STOPPED
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3 of 6"):
        stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path, callbacks=[Press()], **options)
    assert stages._last_checkpoint(tmp_path/"stage1").endswith("checkpoint-3")
    stages.train(tiny_models.load("llava"), some_pairs(8), tmp_path, **options)
    assert stages._read_record(tmp_path/"stage1")["steps"] == 6
