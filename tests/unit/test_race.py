"The race of the methods: its loop against the trainer, its scores against the model's own forward, its losses by hand"
import functools, json, math
from types import SimpleNamespace
import pytest
import torch
from typer.testing import CliRunner
from povid_nb import cli, methods, noise, race, stages, trials, world
from povid_nb.branches import Branches
from povid_nb.dpo import Logps
from povid_nb.methods import METHODS, UNTRAINED
from povid_nb.neighbours import group_loss, image_loss, mdpo_loss
from povid_nb.train import PovidConfig, PovidTrainer
from povid_nb.vlm import VLM

PAIRS = trials.world_pairs(8, 0, captions=1.)
TRIPLES = [(p.image, p.chosen, p.rejected) for p in PAIRS]


def tuned(seed=0):
    "A model whose adapter is not zero any more"
    vlm = stages.add_adapter(VLM.load(), seed=seed)
    torch.manual_seed(seed)
    for name, p in vlm.model.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(p, std=.02)
    return vlm


@pytest.fixture(scope="module")
def scored():
    vlm = tuned()
    data = methods.rows_of(vlm, TRIPLES, 0)
    of = lambda name: methods.token_scores(Branches(vlm), data, METHODS[name], range(8))
    return vlm, data, {name: of(name) for name in ("POVID, paper", "POVID, released", "Re-Align", "TPO")}


def of_whole(vlm, answers, images=None, pixels=None):
    images = [scene for scene, *_ in TRIPLES] if images is None else images
    return torch.tensor([s.logps for s in vlm.score(images, world.DESCRIBE, answers, pixels=pixels)])


def noisy(values): return noise.noisy_rows(values, [500] * len(values), range(len(values)), 0)


def test_answers_are_scored_as_the_model_itself_does(scored):
    "Sums over tokens in a packed row, against one plain forward for each answer, by policy and reference"
    vlm, data, found = scored
    s, pictures = found["TPO"], [TRIPLES[i][0] for i in data.swap]
    for side, on in (("policy", True), ("reference", False)):
        t, other = getattr(s, side), getattr(found["Re-Align"], side).chosen_other
        def check(tokens, mask, answers, **how):
            if on: want = of_whole(vlm, answers, **how)
            else:
                with vlm.adapter_off(): want = of_whole(vlm, answers, **how)
            assert torch.allclose(tokens.masked_fill(~mask, 0).sum(1).detach(), want, atol=2e-3)
        chosen, rejected = [p.chosen for p in PAIRS], [p.rejected for p in PAIRS]
        check(t.chosen, s.chosen, chosen)
        check(t.rejected, s.rejected, rejected)
        check(t.chosen_other, s.chosen, chosen, pixels=noisy)
        check(t.rejected_other, s.rejected, rejected, pixels=noisy)
        check(other, s.chosen, chosen, images=pictures)
    assert s.policy.chosen.requires_grad and not s.reference.chosen.requires_grad


def test_the_words_under_noise_are_the_policys(scored):
    "Scored under the noisy picture in the paper's form, under the clean one in the released form"
    vlm, _, found = scored
    batch = vlm.inputs([s for s, *_ in TRIPLES], world.DESCRIBE, [p.chosen for p in PAIRS])
    with torch.no_grad():
        hidden = batch | {"pixel_values": noisy(batch["pixel_values"])}
        logits = [vlm.model(**{k: v for k, v in b.items() if k != "answer_mask"}).logits.log_softmax(-1)
                  for b in (hidden, batch)]
    for i, mask in enumerate(batch["answer_mask"]):
        # the position that predicts a token stands before it
        before = mask.roll(-1)
        words = logits[0][i][before].argmax(-1)
        for name, under in (("POVID, paper", 0), ("POVID, released", 1)):
            want = logits[under][i][before].gather(1, words[:, None])[:, 0]
            came = found[name].policy.noise[i][found[name].chosen[i]]
            assert torch.allclose(came, want, atol=1e-3)


def test_the_swapped_picture_is_another_one_of_the_same_kind_of_place(scored):
    _, data, _ = scored
    scenes = [scene for scene, *_ in TRIPLES]
    for i, j in enumerate(data.swap):
        alike = [k for k, s in enumerate(scenes) if k != i and s.context == scenes[i].context]
        assert j != i and (j in alike or not alike)


def test_the_loop_is_the_trainers(tmp_path):
    "Three steps of DPO with the NLL term: the losses of `train`, which is compared with TRL elsewhere"
    vlm = VLM.load()
    came = methods.fit(vlm, METHODS["DPO"], methods.rows_of(vlm, TRIPLES, 0), seed=0, rate=1e-3, steps=3, size=8)
    vlm = stages.add_adapter(VLM.load(), seed=0)
    args = PovidConfig(output_dir=str(tmp_path), form="dpo", nll_weight=1., max_steps=3, per_device_train_batch_size=8,
                       learning_rate=1e-3, lr_scheduler_type="cosine", logging_steps=1, save_strategy="no",
                       report_to="none", use_cpu=True, disable_tqdm=True)
    trainer = PovidTrainer(vlm, args, PAIRS)
    trainer.train()
    want = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert came["losses"] == pytest.approx(want, abs=2e-4) and came["losses"][2] < came["losses"][0]


# log 2, times how many terms
KNOWN = {"SFT (control)": 0, "mDPO": 3, "Re-Align": 2, "TPO": None, "GRPO": None, "ViCrit": None, "VES": None}

@pytest.mark.parametrize("name", [name for name in METHODS if KNOWN.get(name, 1) is not None])
def test_before_the_first_step_every_loss_is_known(name, start):
    vlm, data, anchor = start
    came = methods.batch_losses(Branches(vlm), data, METHODS[name], range(8))
    assert torch.allclose(came - anchor, torch.full((8,), KNOWN.get(name, 1) * math.log(2)), atol=1e-3)


@pytest.fixture(scope="module")
def start():
    vlm = stages.add_adapter(VLM.load())
    data = methods.rows_of(vlm, TRIPLES, 0)
    tokens = torch.tensor([len(s.tokens)
                           for s in vlm.score([s for s, *_ in TRIPLES], world.DESCRIBE, [p.chosen for p in PAIRS])])
    return vlm, data, -of_whole(vlm, [p.chosen for p in PAIRS]) / tokens


def test_losses_about_the_picture_by_hand():
    policy = Logps(torch.tensor([-8.]), torch.tensor([-20.]), chosen_noisy=torch.tensor([-15.]))
    reference = Logps(torch.tensor([-10.]), torch.tensor([-17.]), chosen_noisy=torch.tensor([-14.]))
    # D: 2 for the right answer, -3 rejected, -1 other picture
    loss = lambda nats: math.log1p(math.exp(-.1 * nats))
    assert image_loss(policy, reference).item() == pytest.approx(loss(5) + loss(3))
    assert image_loss(policy, reference, text=0.).item() == pytest.approx(loss(3))
    assert mdpo_loss(policy, reference).losses.item() == pytest.approx(loss(5) + loss(3) + loss(2))


def test_the_group_loss_is_that_of_trl():
    """TRL's GRPOTrainer for one step a batch: advantages by group, a clipped ratio of 1, each answer's mean over
    its tokens"""
    torch.manual_seed(0)
    logps = torch.randn(6, 5, requires_grad=True)
    mask = torch.arange(5)[None] < torch.tensor([5, 3, 4, 5, 2, 1])[:, None]
    rewards = torch.rand(2, 3)
    group_loss(logps, mask, rewards).mean().backward()
    theirs = logps.detach().clone().requires_grad_()
    flat = rewards.flatten()
    mean, std = (of.repeat_interleave(3) for of in (rewards.mean(1), rewards.std(1)))
    advantages = (flat - mean) / (std + 1e-4)
    coef_1 = torch.exp(theirs - theirs.detach())
    per_token = -torch.min(coef_1 * advantages[:, None], torch.clamp(coef_1, .8, 1.2) * advantages[:, None])
    ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1.)).mean().backward()          # loss_type="grpo"
    assert torch.allclose(logps.grad, theirs.grad, atol=1e-7) and logps.grad.abs().max() > 0


def test_ddpo_weighs_what_was_changed():
    ids = lambda *rows: torch.tensor(rows)
    mask = torch.tensor([[True, True, True]])
    table = lambda c, r: SimpleNamespace(chosen=torch.tensor([c]), rejected=torch.tensor([r]))
    s = SimpleNamespace(policy=table([-1., -2., -3.], [-1., -4., -3.]), reference=table([-1.] * 3, [-1.] * 3),
                        chosen=mask, rejected=mask, chosen_ids=ids([7, 8, 9]), rejected_ids=ids([7, 5, 9]))
    policy, reference = methods._ddpo(s)
    assert policy.chosen.item() == pytest.approx((-1 - 5 * 2 - 3) / 7)
    assert policy.rejected.item() == pytest.approx((-1 - 5 * 4 - 3) / 7)
    assert reference.chosen.item() == pytest.approx(-1)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("race")
    sizes = dict(n=8, steps=1, size=8, choosing=2, scenes={"counter": 3}, tries=(1e-3,), alphas=(1.,))
    sizes |= {"habits": {"clean": world.Habit()}}
    run = race.Race(folder, **sizes)
    return folder, sizes, run.run([0], {name: METHODS[name] for name in (race.CONTROL, "DPO")}, {})


def test_a_race_goes_on_where_it_was(small, monkeypatch):
    folder, sizes, saved = small
    monkeypatch.setattr(race, "fit", None)                          # nothing is trained again
    again = race.Race(folder, **sizes).run([0], {name: METHODS[name] for name in (race.CONTROL, "DPO")}, {})
    assert again["means"] == saved["means"] and again["cost"] == saved["cost"]
    assert saved["cost"]["clean"]["DPO"]["rows"] == 8 + 8           # one step of eight, and the reference once


LOSS = "def my_loss(policy, reference):\n    return {}\nmy_loss.picture = 'noisy'\n"

def test_a_readers_loss_enters_from_the_command_line(small, monkeypatch):
    folder, sizes, saved = small
    monkeypatch.setattr(race, "Race", functools.partial(race.Race, **sizes))
    monkeypatch.setattr(trials.Lab, "saved", lambda self: json.loads(json.dumps(saved)))
    monkeypatch.chdir(folder)
    (folder/"mine.py").write_text(LOSS.format("policy.chosen_noisy - policy.chosen"))
    said = CliRunner().invoke(cli.app, ["lab", "neighbours", "--method", "mine.py:my_loss"])
    assert said.exit_code == 0, said.output
    assert said.output.count("| my_loss |") == 1 and "my_loss - SFT (control): CHAIR_s" in said.output
    first = {f.parent.name for f in folder.glob("runs/labs/neighbours/clean/my_loss/*/adapter.safetensors")}
    (folder/"mine.py").write_text(LOSS.format("-policy.chosen"))    # an edited file is another method
    assert CliRunner().invoke(cli.app, ["lab", "neighbours", "--method", "mine.py:my_loss"]).exit_code == 0
    assert len({f.parent.name
                for f in folder.glob("runs/labs/neighbours/clean/my_loss/*/adapter.safetensors")}) == 2 * len(first)


@pytest.mark.parametrize("lab, spec, why", [
    ("neighbours", "my_loss", "my_file.py:my_loss"), ("neighbours", "gone.py:my_loss", "no file gone.py"),
    ("neighbours", "mine.py:other", "no function 'other'"), ("neighbours", "mine.py:DPO", "another name"),
    ("kinds", "mine.py:my_loss", "not to kinds")])
def test_a_loss_that_cannot_enter_is_refused(small, monkeypatch, tmp_path, lab, spec, why):
    monkeypatch.setattr(trials.Lab, "saved", lambda self: small[2])
    monkeypatch.chdir(tmp_path)
    (tmp_path/"mine.py").write_text("def my_loss(policy, reference): pass\ndef DPO(policy, reference): pass\n")
    with pytest.raises((ValueError, FileNotFoundError), match=why): race.entered(lab, spec)


def test_the_contrast_without_training_leaves_out_improbable_words():
    clear = torch.tensor([[.6, .39, .01]]).log()
    # the third word gains most, and is too improbable
    blind = torch.tensor([[.8999, .1, .0001]]).log()
    came = methods._Halves(1.)(None, torch.cat([clear, blind]))
    assert came[0].argmax() == 1 and came[0][2] == -torch.inf and torch.equal(came[0], came[1])
    assert torch.allclose(came[0][:2], (2 * clear - blind)[0][:2], atol=1e-5)


def test_every_method_says_where_it_comes_from_and_belongs_to_a_family():
    for name, m in METHODS.items(): assert m.arXiv or m.loss is None, name
    assert {race.family(name) for name in [*METHODS, *UNTRAINED, "before"]} == set(race._FAMILIES)


def test_a_model_whose_rows_cannot_be_packed_is_refused_in_one_line():
    vlm = VLM.load()
    vlm.base._packing_fault = "in a packed row its log-probabilities differ by 0.5"
    data = methods.rows_of(vlm, TRIPLES, 0)
    with pytest.raises(ValueError,
                       match="tiny cannot be trained here: in a packed row .* differ by 0.5; take stages.train"):
        methods.fit(vlm, METHODS["DPO"], data, 0, 1e-3, 1, 4)
