"""What test_run_processes.py starts in processes of its own.

    python run_work.py whole FOLDER          the whole method
    python run_work.py kill FOLDER KILLS     the same, killed KILLS times and resumed, in FOLDER/killed
    torchrun --nproc_per_node N run_work.py share FOLDER BATCH   the whole method on N processes with BATCH pairs each
"""
import json, os, random, signal, sys, time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
sys.path[:0] = [str(Path(__file__).parents[2])]

import torch
from povid_nb import procs, run
from work import in_a_child

torch.set_num_threads(1)


def method(out, batch=4):
    run.run(out, answers="own", pairs=12, n=4, batch_size=2,
            train=dict(batch_size=batch, learning_rate=2e-3, save_steps=2, stage1=dict(num_train_epochs=2),
                       sft=dict(num_train_epochs=1)))


def killed_after(out, files):
    "Run in a child that is killed when it has written `files` files of a new name; returns its exit status"
    seen = {f for f in out.rglob("*")}
    goal = len(seen) + files
    if not (child := os.fork()):
        try: method(out)
        finally: os._exit(0)
    while len(seen) < goal:
        seen |= {f for f in out.rglob("*")}
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended: return status
        time.sleep(.01)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def kill(folder, kills):
    folder, rng = Path(folder), random.Random(4)
    signals = [killed_after(folder/"killed", rng.randint(3, 14)) for _ in range(int(kills))]
    assert in_a_child(lambda: method(folder/"killed")) == 0
    (folder/"signals.json").write_text(json.dumps(signals))


def share(folder, batch):
    method(Path(folder), int(batch))
    (Path(folder)/f"world{os.environ.get('RANK', 0)}.txt").write_text(str(procs.world_size()))
    if torch.distributed.is_initialized(): torch.distributed.barrier()
    os._exit(0)   # an ordinary exit of a gloo process is aborted now and then, after all work is done


def whole(folder): method(Path(folder))


if __name__ == "__main__": {"whole": whole, "kill": kill, "share": share}[sys.argv[1]](*sys.argv[2:])
