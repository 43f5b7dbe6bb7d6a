"What a plan says of memory and work, against steps that were really taken"
import torch, pytest
from bench import measure, shapes
from povid_nb import plan as planning
from povid_nb.branches import Branches, answer_logps, encode
from povid_nb.forms import find_form
from povid_nb.plan import plan, rehearse
from povid_nb.train import PovidConfig

SHAPE = shapes.Shape("LLaVA-proportioned, 4 layers", tower=(64, 256, 4, 4), text=(256, 688, 4, 8), prompt=60,
                     answer=110)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shape")
    shapes.config(SHAPE).save_pretrained(folder)
    return str(folder)


def real_step(form, checkpointing, tmp_path):
    "The peak of a step on real tensors, as torch's own profiler sees it, and its operations"
    vlm = shapes.add_lora(shapes.build(SHAPE), SHAPE)
    if checkpointing:
        vlm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        vlm.model.train()
    branch, found = Branches(vlm), find_form(form)
    batch = branch.collate([encode(vlm, shapes.pairs(SHAPE, 1)[0])], noisy=bool(found.noise))
    args = PovidConfig(output_dir=str(tmp_path), form=form, use_cpu=True, report_to="none")
    def step():
        policy, reference = answer_logps(branch.step(**batch, form=form))
        found.loss(policy, reference, args)[0].mean().backward()
    flops = measure.operations(step)
    vlm.model.zero_grad()
    return measure.memory(step), flops


@pytest.mark.parametrize("form", ["dpo", "paper"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_without_content_needs_what_a_real_one_takes(folder, form, checkpointing, tmp_path):
    need = rehearse(folder, form, SHAPE.rank, checkpointing, dtype=torch.float32)
    taken, flops = real_step(form, checkpointing, tmp_path)
    print(form, checkpointing, need.step / taken, need.flops / flops)
    assert need.step == pytest.approx(taken, rel=.15) and need.flops == pytest.approx(flops, rel=.05)


@pytest.mark.parametrize("name, billions, tokens",
                         [("smolvlm-256m", .256, 64), ("smolvlm-500m", .507, 64), ("qwen2.5-vl-3b", 3.75, 391),
                                                    ("llava-1.5-7b", 7.06, 576), ("qwen2.5-vl-7b", 8.29, 391)])
def test_the_sizes_are_those_that_were_published(name, billions, tokens):
    config = planning._config(f"owner/{name.upper()}-Instruct")
    count = sum(p.numel() for p in planning._Hollow(config, name).model.parameters())
    assert count / 1e9 == pytest.approx(billions, rel=.02) and planning._picture(config)[1] == tokens


def test_a_plan_takes_the_fastest_setting_that_fits():
    small, large = plan("smolvlm-256m", "t4", 1000), plan("smolvlm-256m", "h100", 2000)
    assert small.fits
    assert small.bits == 16
    assert not small.checkpointing
    assert small.gib <= small.room
    assert large.batch >= small.batch
    assert small.hours / large.hours == pytest.approx(600 / 25 / 2) and large.lies == 2 * small.lies
    assert all(words in str(small)
               for words in ("fits: 16-bit", "GiB", "hours", "by API", "1,000 pairs, 3 epochs", "TFLOP/s",
                             "fragments"))
    with pytest.raises(ValueError, match="unknown gpu 't5'"): plan("smolvlm-256m", "t5")


def test_what_does_not_fit_is_said(monkeypatch):
    monkeypatch.setitem(planning._GPUS, "t4", (.5, 25, .35))
    assert "does not fit, not even with 4-bit weights, checkpointing on" in str(plan("smolvlm-256m", "t4"))
