"Real processes: killed and resumed, and two sharing the work. Every test looks at what was written."
import json, subprocess, sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORK = Path(__file__).with_name("work.py")
sys.path.append(str(Path(__file__).parents[1]/"models"))


def run(*command, timeout=300):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("kills, between",
                         [(2, "merge"), (2, "stack"), pytest.param(5, "merge", marks=pytest.mark.slow)])
def test_killed_at_random_steps_and_resumed_it_ends_with_the_same_weights_to_the_bit(tmp_path, monkeypatch, kills,
        between):
    monkeypatch.setenv("BETWEEN", between)
    run(sys.executable, WORK, "kill", tmp_path, kills)
    died = json.loads((tmp_path/"died.json").read_text())
    assert died["signals"] == [9] * kills, "every run but the last died by SIGKILL"
    for name in ("stage1", "stage2", "adapter"):
        whole, killed = (load_file(tmp_path/run/name/"adapter_model.safetensors") for run in ("whole", "killed"))
        assert whole.keys() == killed.keys() and all(torch.equal(whole[k], killed[k]) for k in whole), (name, died)
    assert max(v.abs().max() for k, v in whole.items()
               if "lora_B" in k) > 1e-3, "nothing was learnt, so nothing was shown"


def test_two_processes_compute_what_one_does(tmp_path):
    run(sys.executable, WORK, "share", tmp_path/"one", 4)
    run(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", 29517, WORK, "share",
        tmp_path/"two", 2)
    one, *two = (torch.load(tmp_path/f, weights_only=True) for f in ("one/rank0.pt", "two/rank0.pt", "two/rank1.pt"))
    assert [r["world"] for r in (one, *two)] == [1, 2, 2]
    assert torch.equal(two[0]["adapter"], two[1]["adapter"]), "the replicas are in step"
    assert (one["adapter"] - two[0]["adapter"]).abs().max() < 1e-5
    logged = [[json.loads(line) for line in (tmp_path/n/"losses.jsonl").read_text().splitlines()]
              for n in ("one", "two")]
    assert [l["step"] for l in logged[0]] == [l["step"] for l in logged[1]] == [1, 2, 3, 4, 5]
    for name in ("loss", "rewards/margins", "noise/moved", "logps/chosen"):
        first, second = ([float(l[name]) for l in log] for log in logged)
        assert first == pytest.approx(second, abs=1e-5 if name == "loss" else 1e-3), name


@pytest.mark.parametrize("between", ["merge", "stack"])
def test_both_stages_with_the_model_cut_up_by_fsdp2_compute_what_one_process_does(tmp_path, between):
    import tiny_models
    base = tiny_models.save("llava", tmp_path/"base")
    run(sys.executable, WORK, "whole", base, tmp_path/"whole", between, 4)
    run(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", 29519, WORK, "cut",
        base, tmp_path/"cut", between, 2)
    seen = json.loads((tmp_path/"cut"/"seen.json").read_text())
    assert seen["world"] == 2 and seen["sharded"] == 4, "every step ran on a model that was cut up"
    tried = 2 * 2     # before each stage an answer is scored in a shared row and in a row of its own
    assert seen["sliced"] == tried + 2 * 2 + 2 * 3, (
        "policy and reference, and the noisy pass of stage 2, never made all logits at once")
    for stage in (1, 2):
        whole, cut = (json.loads((tmp_path/n/f"stage{stage}"/"log.json").read_text()) for n in ("whole", "cut"))
        assert [l["loss"] for l in whole if "loss" in l] == pytest.approx([l["loss"] for l in cut if "loss" in l],
            abs=1e-4)
    one, two = (load_file(tmp_path/n/"adapter"/"adapter_model.safetensors") for n in ("whole", "cut"))
    assert all(torch.allclose(one[k], two[k], atol=1e-5) for k in one)


@pytest.mark.slow
def test_a_model_cut_up_by_fsdp2_goes_on_where_it_was_stopped(tmp_path):
    import tiny_models
    base = tiny_models.save("llava", tmp_path/"base")
    def cut(folder, **more):
        run(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", 29521, WORK, "cut",
            base, folder, "stack", 2, json.dumps({"optim": "adamw_torch"} | more))
    cut(tmp_path/"whole")
    cut(tmp_path/"stopped", save_steps=1)
    assert (tmp_path/"stopped"/"stage2"/"checkpoint-1").is_dir() and not (tmp_path/"stopped"/"adapter").exists(), (
        "it was left in the middle of stage 2")
    cut(tmp_path/"stopped", save_steps=1)
    whole, stopped = (json.loads((tmp_path/n/"seen.json").read_text()) for n in ("whole", "stopped"))
    assert stopped["resumed"] and not whole["resumed"] and (whole["sharded"], stopped["sharded"]) == (4, 1), (
        "one step of stage 2 was left to do")
    one, two = (load_file(tmp_path/n/"adapter"/"adapter_model.safetensors") for n in ("whole", "stopped"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_both_stages_on_two_processes_that_stop_and_go_on_compute_what_one_process_does(tmp_path):
    import tiny_models
    base = tiny_models.save("llava", tmp_path/"base")
    run(sys.executable, WORK, "whole", base, tmp_path/"whole", "stack", 4)
    two = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", 29523, WORK,
           "halves", base, tmp_path/"two", "stack", 2)
    run(*two)
    assert (tmp_path/"two"/"stage2"/"checkpoint-1").is_dir() and not (tmp_path/"two"/"adapter").exists(), (
        "it was left in the middle of stage 2")
    run(*two)
    assert json.loads((tmp_path/"two"/"seen.json").read_text()) == {"world": 2, "resumed": True}
    one, two = (load_file(tmp_path/n/"adapter"/"adapter_model.safetensors") for n in ("whole", "two"))
    assert one.keys() == two.keys() and all(torch.allclose(one[k], two[k], atol=1e-5) for k in one)
    assert max(v.abs().max() for k, v in one.items()
               if "lora_B" in k) > 1e-4, "nothing was learnt, so nothing was shown"


@pytest.mark.parametrize("name", ["ddp", "fsdp", "deepspeed"])
def test_the_shipped_launch_settings_are_read_by_accelerate(name):
    from accelerate.commands.config.config_args import load_config_from_file
    from povid_nb import stages
    config = load_config_from_file(str(stages.launch_config(name)))
    assert config.num_processes >= 1
    assert config.distributed_type == {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed": "DEEPSPEED"}[name]


def test_the_deepspeed_settings_pass_its_own_schema(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = pytest.importorskip("deepspeed.runtime.config", reason="needs deepspeed: pip install deepspeed")
    import yaml
    from accelerate.utils import DeepSpeedPlugin
    from povid_nb import stages
    given = yaml.safe_load(stages.launch_config("deepspeed").read_text())["deepspeed_config"]
    made = DeepSpeedPlugin(**{key.replace("deepspeed_", ""): 1 if value == "auto" else value
                              for key, value in given.items()}).deepspeed_config
    made |= dict(train_micro_batch_size_per_gpu=1, train_batch_size=1, steps_per_print=10)
    assert config.DeepSpeedConfig(made).zero_config.stage == 2
    made["zero_optimization"]["stage"] = 7
    with pytest.raises(Exception, match="stage"): config.DeepSpeedConfig(made)
