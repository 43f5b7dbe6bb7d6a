"""`povid train` as a user calls it: the installed command, the built-in model, pairs of a folder; stopped and
called again"""
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
SHORT = ("--batch-size", "2", "--max-steps", "4", "--save-steps", "1", "--set", "logging_steps=1", "--set",
         "stage2.form=released", "--noise-step", "700")


def command(*words):
    "The installed `povid`, and where the package is not installed, its module"
    povid = Path(sys.executable).with_name("povid")
    return [*([povid] if povid.exists() else [sys.executable, "-m", "povid_nb.cli"]), *map(str, words)]


def start(*words):
    return subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})


def finish(process, timeout=300):
    said = process.communicate(timeout=timeout)[0]
    assert process.returncode == 0, said[-3000:]
    return said


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from povid_nb.inject import make_pairs
    folder = tmp_path_factory.mktemp("pairs")
    make_pairs(n=10, out=folder, progress=False)
    return folder


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(.05)


def test_both_stages_stopped_by_ctrl_c_and_called_again(data, tmp_path):
    one = start("train", "--data", data, "--out", tmp_path/"one", *SHORT)
    two = start("train", "--data", data, "--out", tmp_path/"two", *SHORT)
    wait_for(tmp_path/"two"/"stage1"/"checkpoint-1"/"trainer_state.json", two)
    two.send_signal(signal.SIGINT)
    said = two.communicate(timeout=300)[0]
    assert two.returncode == 130 and "the same command goes on from here" in said, said[-3000:]
    assert not (tmp_path/"two"/"adapter").exists()
    said = finish(start("train", "--config", tmp_path/"two"/"train.yaml"))
    assert f"adapter: {tmp_path/'two'/'adapter'}" in said and "Traceback" not in said
    assert "step 4 of 4: loss" in finish(one)
    first, second = (load_file(tmp_path/name/"adapter"/"adapter_model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(v.abs().max() > 0 for n, v in first.items() if "lora_B" in n)
    records = [json.loads((tmp_path/"one"/f"stage{n}"/"povid.json").read_text()) for n in (1, 2)]
    assert [r["settings"]["form"] for r in records] == ["dpo", "released"]
    assert all(r["steps"] == 4 and r["pairs"]["count"] == 10 for r in records)
    from povid_nb import world
    from povid_nb.vlm import VLM
    # it fits the model that came in
    assert VLM.load(adapter=tmp_path/"one"/"adapter").describe(world.scenes("counter", "test", 1)[0].image())


def test_two_processes_share_the_work_of_the_command(data, tmp_path):
    "torchrun starts two; the adapter is that of one process with batches twice as large"
    short = ("--data", data, "--stage", "1", "--max-steps", "3", "--set", "logging_steps=1", "--set",
             "train_sampling_strategy=sequential", "--set", "optim=sgd", "--learning-rate", ".05", "--limit", "8")
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29533", "-m",
           "povid_nb.cli", "train", *short, "--out", tmp_path/"two", "--batch-size", "2", "--processes", "2"]
    finish(subprocess.Popen([str(w) for w in two], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT)}))
    assert povid("train", *short, "--out", tmp_path/"one", "--batch-size", "4", "--set",
                 "disable_tqdm=true").exit_code == 0
    one, both = (load_file(tmp_path/name/"adapter"/"adapter_model.safetensors") for name in ("one", "two"))
    assert max(v.abs().max() for n, v in one.items() if "lora_B" in n) > 1e-4
    for name in one: assert torch.allclose(one[name], both[name], atol=1e-6), name


# ---- Options and mistakes, in this process --------------------------------------------------------------------------

def povid(*words):
    from povid_nb.cli import app
    return CliRunner().invoke(app, [str(w) for w in words], prog_name="povid")


@pytest.mark.parametrize("words, told", [
    (("--data", "nowhere.jsonl"), "nowhere.jsonl"),
    (("--stage", "3"), "'3' is not one of '1', '2', 'both'"),
    (("--set", "colour=red"), "unknown setting colour for training"),
    (("--set", "stage3.beta=1"), "unknown setting stage3 for training"),
    (("--set", "beta"), "expected name=value"),
    (("--form", "code"), "'code' is not one of 'sft', 'dpo', 'released', 'paper', 'mdpo'"),
    (("--noise-step", "1000"), "1000"),
    (("--model", "no/such-model"), "no/such-model"),
    (("--processes", "2"), "this run has 1 process, expected 2"),
    (("--set", "max_length=30"), "cutting it would cut the picture")])
def test_mistakes_get_one_line(data, tmp_path, words, told):
    result = povid("train", "--data", data, "--out", tmp_path, "--set", "disable_tqdm=true", *words)
    last = result.output.strip().splitlines()[-1]
    assert result.exit_code in (1, 2) and last.lower().startswith("error: ") and told in last, result.output


def test_a_row_whose_picture_is_missing_is_set_aside_and_told(data, tmp_path):
    lines = (data/"pairs.jsonl").read_text().splitlines()[:3]
    row = json.loads(lines[1])
    row["image"] = "gone.png"
    file = data/"one_is_gone.jsonl"
    file.write_text("\n".join([lines[0], json.dumps(row), lines[2]]))
    with pytest.warns(UserWarning, match="1 of 3 rows were set aside .*gone.png"):
        result = povid("train", "--data", file, "--out", tmp_path, "--stage", "1", "--max-steps", "1", "--batch-size",
                       "2", "--set", "disable_tqdm=true")
    assert result.exit_code == 0 and json.loads((tmp_path/"adapter"/"povid.json").read_text())["pairs"]["count"] == 2


def test_a_loss_that_is_not_a_number_stops_the_run_in_one_line(data, tmp_path):
    result = povid("train", "--data", data, "--out", tmp_path, "--stage", "1", "--learning-rate", "1e30",
                   "--max-steps", "5", "--batch-size", "2", "--set", "disable_tqdm=true", "--set", "max_grad_norm=0")
    last = result.output.strip().splitlines()[-1]
    assert result.exit_code == 1 and "error: the loss is not a number at step" in last, result.output
    assert not (tmp_path/"adapter").exists()


def test_what_was_asked_is_kept_and_read_again(data, tmp_path):
    words = ("--stage", "1", "--max-steps", "1", "--batch-size", "2", "--limit", "4", "--set", "disable_tqdm=true")
    assert povid("train", "--data", data, "--out", tmp_path, *words).exit_code == 0
    asked = yaml.safe_load((tmp_path/"train.yaml").read_text())
    assert asked["max_steps"] == 1 and asked["limit"] == 4 and asked["set"] == ["disable_tqdm=true"]
    weights = (tmp_path/"adapter"/"adapter_model.safetensors").read_bytes()
    again = povid("train", "--config", tmp_path/"train.yaml")
    assert again.exit_code == 0 and (tmp_path/"adapter"/"adapter_model.safetensors").read_bytes() == weights
    other = povid("train", "--config", tmp_path/"train.yaml", "--beta", ".5")
    assert other.exit_code == 1 and "holds a run with other settings" in other.output
