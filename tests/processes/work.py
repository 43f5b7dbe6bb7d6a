"""What the tests of this folder start in processes of their own.

    python work.py kill FOLDER KILLS     train; then train again, killed at KILLS steps and resumed; both in FOLDER
    torchrun --nproc_per_node N work.py share FOLDER BATCH   train on N processes with BATCH pairs each
    torchrun --nproc_per_node N work.py cut BASE FOLDER BETWEEN BATCH [SETTINGS]   both stages, the model of BASE cut
    up by FSDP2 python work.py whole BASE FOLDER BETWEEN BATCH           the same in one process, the model whole
    torchrun --nproc_per_node N work.py halves BASE FOLDER BETWEEN BATCH   the same under DDP, which ends after the
    first save of stage 2; called again, it goes on
"""
import json, os, random, signal, sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false")
sys.path[:0] = [str(Path(__file__).parents[1]/"models"), str(Path(__file__).parents[2])]

import torch
from PIL import Image
from transformers import TrainerCallback

import tiny_models
from povid_nb import packing, procs, stages, train
from povid_nb.pairs import Example, Pair

torch.set_num_threads(1)
BETWEEN = os.environ.get("BETWEEN", "merge")
WORDS = "red fork on the left of plate there is a green cup two spoons knife".split()


def some_pairs(n):
    rng = random.Random(0)
    text = lambda: " ".join(rng.choices(WORDS, k=rng.randint(2, 9)))
    image = lambda: Image.frombytes("RGB", (40, 40), rng.randbytes(4800))
    return [Pair(Example(image(), text(), text(), id=f"p{i}"), "not " + text()) for i in range(n)]


class Losses(TrainerCallback):
    "Keeps the losses as they are logged, each on its own line"
    def __init__(self, file): self.file = file
    def on_log(self, args, state, control, logs=None, **others):
        if "loss" in logs and state.is_world_process_zero:
            with open(self.file, "a") as f: f.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class KillMe(TrainerCallback):
    "SIGKILL in the middle of a step"
    def __init__(self, stage, step): self.at = (stage, step)
    def on_pre_optimizer_step(self, args, state, control, **others):
        if (Path(args.output_dir).name, state.global_step) == self.at: os.kill(os.getpid(), signal.SIGKILL)


def both_stages(folder, callbacks=()):
    return stages.train(tiny_models.load("llava"), some_pairs(24), folder, between=BETWEEN, callbacks=callbacks,
                        stage1=dict(num_train_epochs=2), stage2=dict(form="released", noise_tokens="moved"),
                       rank=3, batch_size=4, learning_rate=1e-2, use_cpu=True, disable_tqdm=True, save_steps=2,
                        logging_steps=1)


def in_a_child(work):
    "Run in a forked process (the imports are paid once); returns its exit status"
    if child := os.fork(): return os.waitpid(child, 0)[1]
    try: work()
    except BaseException as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def kill(folder, kills):
    "12 steps of stage 1 and 6 of stage 2: undisturbed, then with `kills` kills at random steps"
    folder, rng = Path(folder), random.Random(int(kills))
    assert in_a_child(lambda: both_stages(folder/"whole")) == 0
    steps = sorted(rng.sample(range(18), int(kills)))
    died = []
    for step in steps:
        at = ("stage1", step) if step < 12 else ("stage2", step - 12)
        died.append(in_a_child(lambda: both_stages(folder/"killed", [KillMe(*at)])))
    assert in_a_child(lambda: both_stages(folder/"killed")) == 0
    (folder/"died.json").write_text(json.dumps({"steps": steps, "signals": died}))


def share(folder, batch):
    "A few steps on all processes of this launch, the losses written by the first"
    folder = Path(folder)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if rank == 0: folder.mkdir(parents=True, exist_ok=True)
    vlm = stages.add_adapter(tiny_models.load("llava"), rank=3)
    args = train.PovidConfig(output_dir=str(folder), form="released", per_device_train_batch_size=int(batch),
                             learning_rate=.05, optim="sgd", max_steps=5, logging_steps=1,
                             use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True,
                             train_sampling_strategy="sequential", cache="reference")
    trainer = train.PovidTrainer(vlm, args, some_pairs(24), callbacks=[Losses(folder/"losses.jsonl")])
    trainer.train()
    mine = torch.cat([p.detach().flatten() for n, p in vlm.model.named_parameters() if "lora_" in n])
    torch.save({"world": procs.world_size(), "asked": world, "adapter": mine}, folder/f"rank{rank}.pt")
    if world > 1: torch.distributed.barrier()
    os._exit(0)   # an ordinary exit of a gloo process is aborted now and then, after all work is done


def whole(base, folder, between, batch, **more):
    "Both stages in a few steps of plain gradient descent, whose losses are kept in the folder"
    vlm = stages.train(tiny_models.load("llava", base), some_pairs(8), folder, between=between,
                       stage1=dict(num_train_epochs=1), stage2=dict(form="released"),
                       rank=3, batch_size=int(batch), learning_rate=1e-2, train_sampling_strategy="sequential",
                       use_cpu=True, disable_tqdm=True, logging_steps=1, **{"optim": "sgd"} | more)
    pair = some_pairs(1)[0]
    return vlm.score(pair.image, pair.prompt, pair.chosen).logps


class Leave(TrainerCallback):
    "All processes are gone after the first save of stage 2"
    def on_save(self, args, state, control, **others):
        if args.output_dir.endswith("stage2") and state.global_step == 1:
            torch.distributed.barrier()
            os._exit(0)


def halves(base, folder, between, batch):
    "Two processes that are both gone after the first save of stage 2, unless that save is there already"
    resumed = (Path(folder)/"stage2"/"checkpoint-1").exists()
    whole(base, folder, between, batch, save_steps=1, callbacks=[Leave()])
    if procs.is_main():
        (Path(folder)/"seen.json").write_text(json.dumps({"world": procs.world_size(), "resumed": resumed}))
    torch.distributed.barrier()
    os._exit(0)


def cut(base, folder, between, batch, more="{}"):
    """The same under FSDP2 with more settings as JSON; where it saves, it is gone after the first save of stage 2.
    accelerate cuts models up on GPUs only, so these processes are told that they have some"""
    from accelerate import PartialState
    from accelerate.utils import DistributedType
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2", FSDP_AUTO_WRAP_POLICY="TRANSFORMER_BASED_WRAP",
                      FSDP_STATE_DICT_TYPE="FULL_STATE_DICT", FSDP_CPU_RAM_EFFICIENT_LOADING="false")
    def init(self, *args, real=PartialState.__init__, **options):
        first = "distributed_type" not in PartialState._shared_state
        real(self, *args, **options)
        if first: self.distributed_type = DistributedType.MULTI_GPU
    PartialState.__init__ = init
    seen, apply = {"sharded": 0, "sliced": 0}, packing._HeadLogps.apply
    def sliced(*args):
        seen["sliced"] += 1
        return apply(*args)
    packing._HeadLogps.apply = staticmethod(sliced)
    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **others):
            seen["sharded"] += all(hasattr(p, "full_tensor") for p in model.parameters())
    resumed = (Path(folder)/"stage2"/"checkpoint-1").exists()
    logps = whole(base, folder, between, batch, callbacks=[Look(), Leave()], **json.loads(more))
    if procs.is_main():
        seen |= {"resumed": resumed, "logps": logps, "world": procs.world_size()}
        (Path(folder)/"seen.json").write_text(json.dumps(seen))
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    {"kill": kill, "share": share, "cut": cut, "whole": whole, "halves": halves}[sys.argv[1]](*sys.argv[2:])
