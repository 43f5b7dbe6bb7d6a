"""Time, memory and arithmetic of a step."""
import gc, itertools, json, os, platform, statistics, tempfile, time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from povid_nb.stats import versions


CLOCK = ("medians; on a CPU of the process's own CPU time on one thread, so that other work on the machine disturbs "
         "little; on a GPU of wall-clock time")

def clock(device):
    if torch.device(device).type == "cuda": torch.cuda.synchronize(); return time.perf_counter()
    return time.process_time()


def seconds(work, device="cpu"):
    start = clock(device)
    work()
    return clock(device) - start


def alternating(steps, rounds, device="cpu"):
    "Seconds of each named step, in rounds that go through all of them: whatever slows the machine slows all"
    found = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            gc.collect()
            found[name].append(seconds(step, device))
    return found


def middle(values): return statistics.median(values)


def matrix_rate(device="cpu", dtype=torch.float32, n=None, times=5):
    "Operations per second of a large matrix product: the machine's practical best"
    n = n or (1024 if torch.device(device).type == "cpu" else 8192)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    a @ b
    return 2 * n**3 / min(seconds(lambda: a @ b, device) for _ in range(times))


def _product(*shapes, out_shape=None, **options):
    """Of `mm` and `addmm`, also where the type of the outcome stands behind the factors, which torch's own count
    does not take"""
    (rows, inner), (_, columns) = [shape for shape in shapes if isinstance(shape, (tuple, list))][-2:]
    return 2 * rows * inner * columns

def _cpu_attention(q, k, v, *args, out_shape=None, **options): return sdpa_flop_count(q, k, v)
def _cpu_attention_backward(grad, q, k, v, *args, out_shape=None, **options): return 5 * sdpa_flop_count(q, k, v) // 2

def operations(work):
    """Floating-point operations of matrix products and attention (masked places count as if they were computed,
    since they mostly are)"""
    ops = torch.ops.aten
    own = {ops.mm: _product, ops.addmm: _product, ops._scaled_dot_product_flash_attention_for_cpu: _cpu_attention,
           ops._scaled_dot_product_flash_attention_for_cpu_backward: _cpu_attention_backward}
    with FlopCounterMode(display=False, custom_mapping=own) as counter: work()
    return counter.get_total_flops()


def memory(step, device="cpu"):
    "Bytes of the tensors that live at the worst moment of a step, beyond those that live between steps"
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with tempfile.TemporaryDirectory() as folder:
        with silence(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: step()
        seen.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    events = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    return max(itertools.accumulate(e["args"]["Bytes"] for e in events), default=0)


@contextmanager
def silence():
    "Nothing on standard error: the profiler announces itself there"
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try: yield
    finally:
        os.dup2(kept, 2)
        os.close(kept); os.close(nothing)


def machine(device="cpu"):
    "Where this was measured, and with what"
    name = (torch.cuda.get_device_name() if torch.device(device).type == "cuda"
            else next((l.split(":")[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines()
                       if "model name" in l), platform.processor()))
    return {"device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
            "date": time.strftime("%Y-%m-%d"), **versions(("torch", "transformers", "trl", "peft"))}


def keep(results, file):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps(results, indent=1) + "\n")
