"Trackers of transformers hear what a training logs, when they are named, and never otherwise"
import importlib.util
import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils
from povid_nb import inject, stages
from povid_nb.vlm import VLM

TRACKERS = ("tensorboard", "trackio", "wandb")
TRAINING = dict(max_steps=2, batch_size=4, rank=2, logging_steps=1, disable_tqdm=True, use_cpu=True)


@pytest.fixture
def heard(monkeypatch):
    "What trackers of these names, as transformers would load them, were told: {name: [(stage's folder, row)]}"
    told = {name: [] for name in TRACKERS}
    def tracker(name):
        class Tracker(TrainerCallback):
            def on_log(self, args, state, control, logs=None, **kwargs):
                told[name].append((args.output_dir.rpartition("/")[2], logs))
        return Tracker
    for name in TRACKERS: monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, tracker(name))
    return told


@pytest.fixture
def pairs(tmp_path):
    inject.make_pairs(n=8, out=tmp_path/"pairs", progress=False)
    return tmp_path/"pairs"/"pairs.jsonl"


def test_each_tracker_hears_both_stages(heard, pairs, tmp_path):
    stages.train(VLM.load(), pairs, tmp_path/"run", report_to=list(TRACKERS), **TRAINING)
    for name, rows in heard.items():
        for stage in ("stage1", "stage2"):
            steps = [row for where, row in rows if where == stage and "loss" in row]
            assert (len(steps) == 2
                    and all({"rewards/margins", "rewards/accuracies", "learning_rate"} <= row.keys()
                            for row in steps)), name
    assert heard["trackio"] == heard["tensorboard"] == heard["wandb"]


def test_nobody_is_told_unless_named_and_the_choice_is_no_new_run(heard, pairs, tmp_path):
    stages.train(VLM.load(), pairs, tmp_path/"run", "1", **TRAINING)
    assert not any(heard.values())
    # finished: the same run, not another one
    stages.train(VLM.load(), pairs, tmp_path/"run", "1", report_to="wandb", **TRAINING)


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="tensorboard is not installed")
def test_tensorboard_writes_its_files(pairs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    stages.train(VLM.load(), pairs, tmp_path/"run", "1", report_to="tensorboard", **TRAINING)
    (events,) = (tmp_path/"run").rglob("events.out.*")
    found = EventAccumulator(str(events)).Reload()
    assert [event.step for event in found.Scalars("train/rewards/margins")] == [1, 2]
