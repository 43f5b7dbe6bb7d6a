"""`python -m bench page`: what `train` and `scale` left in bench/results, as a page for people."""
import json
from pathlib import Path

from povid_nb import viz

from . import scale
from .train import COLUMNS, TITLES, lines

FOLDER = Path(__file__).parent/"results"


def table(head, rows):
    return "\n".join("| " + " | ".join(map(str, row)) + " |"
                     for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows))

def comparison(title, rows):
    body = [r if len(r) == len(COLUMNS) + 1 else [*r, *[""] * (len(COLUMNS) - 1)] for r in lines(rows)]
    return f"### {title}\n\n" + table(["", *COLUMNS], body)

def number(value): return f"{value:,.2g}" if value < 10 else f"{value:,.0f}"

def origin(found):
    m = found["machine"]
    return (f"{m['device']}, one thread of {m['cores']} cores; Python {m['python']}, "
            + ", ".join(f"{p} {m[p]}" for p in ("torch", "transformers", "trl", "peft")) + f"; {m['date']}")


def training(found):
    shapes = found["all"]
    names = {"dpo": "DPO", "released": "POVID, released form"}
    tables = [comparison(f"{shape}: {names[form]}", rows) for shape, forms in shapes.items()
              for form, rows in forms.items()]
    return f"""## A step of training

`python -m bench train --json bench/results/train.json` ({origin(found)}).

All contestants have the same weights, pairs and noise, and take turns in one run. Times are {found["clock"]}. A step is loss, gradient and AdamW; making batches is not measured.
Memory is that of the tensors alive at the worst moment of a step, beyond those that are there between steps. The matrix rate is that of a product of 1024 by 1024 matrices on the same thread.
Loss and gradient are compared with the first row's.

- **TRL** is `DPOTrainer` as it is; for POVID, a subclass that adds the noise branch to its loss. Away from CUDA it scores every position, and not the answers alone; that costs it more where the vocabulary is large. On a GPU it does not.
- **released algorithm, restated**: six whole forwards, as in POVID's code.
- **ours**: answers of a pair in one row, each picture once, the head on answers only. *Cached*: with the reference's scores from disk; then with the clean pictures' features, too.

{chr(10).join(t + chr(10) for t in tables)}"""


def again(now, before):
    ratio = lambda found, form, name: (
        found["all"][shape][form]["trl"]["ms_per_pair"] / found["all"][shape][form][name]["ms_per_pair"])
    (shape, forms), = now["all"].items()
    spread = lambda row: "{:.2f} - {:.2f}".format(*row["ratio_middle_half"])
    rows = [[f"{form}, {TITLES[name]}", f"{ratio(before, form, name):.2f}", f"{row['ratio']:.2f}", spread(row)]
            for form in forms for name, row in forms[form].items() if name != "trl"]
    return f"""## The same with four pairs in a step, beside an older revision

`python -m bench train --quick` of this revision and of {before["revision"]}, at the same time, each on a core of its own ({origin(now)}).
How many times TRL's time is one's own: of the medians before; now the median of the rounds, and the middle half of them.

{table([shape, "before", "now", "middle half"], rows)}
"""


def both_stages(row):
    cells = lambda stage: [f"{row[stage][key]:,.{digits}f}"
                           for key, digits in (("ms_per_pair", 0), ("peak_gib", 1), ("reserved_gib", 1),
                                               ("planned_gib", 1))]
    head = ["", "ms/pair", "GiB at the worst moment", "GiB that torch took", "GiB by `povid plan`"]
    return f"""{table(head, [[stage, *cells(stage)] for stage in ("stage1", "stage2")])}

Loading {row["load_s"]:.0f} s; loading, both stages of 5 steps and all writing {row["whole_s"]:.0f} s. The adapter read again scores within {row["read_again_differs_by"]:g} of the one that trained.
"""


def on_gpu(found, later):
    "What a first session on a card measured, and what a later one on another card added"
    m, parts, card = found["machine"], {name: rows for name, rows in found["parts"].items()
                                        if name not in later["parts"]}, later["machine"]
    show = lambda name, rows: (f"- {name}: {rows}" if isinstance(rows, str) else f"### {name}\n\n" + both_stages(rows)
                               if "stage1" in rows else comparison(name, rows))
    # kept by hand: another command
    took = ", ".join(f"{name} {seconds}" for name, seconds in found.get("lessons", {}).items())
    lessons = (f"The lessons from top to bottom on the same card (`nbdev_test --path nbs --file_re '^[01].*ipynb' "
               f"--n_workers 9 --timing`): all pass; seconds: {took}.\n" if took else "")
    return f"""## On a GPU

`python -m bench gpu --quick --json bench/results/gpu.json` ({m["device"]}; Python {m["python"]}, torch {m["torch"]}, transformers {m["transformers"]}, peft {m["peft"]}; {m["date"]}; other work on the machine's CPU cores).
Random weights in the shape of LLaVA-1.5-7B, 576 tokens of a picture, 60 of prompt, 110 of each answer, rank 128. The T4 is its memory and fp16 on this card, not its speed.
The comparisons with TRL are of another card, {card["device"]} (torch {card["torch"]}, trl {card["trl"]}; {card["date"]}; the first two parts of the same command).

{(chr(10) * 2).join(show(*part) for part in later["parts"].items())}

{(chr(10) * 2).join(show(*part) for part in sorted(parts.items(), key=lambda part: isinstance(part[1], str)))}

{lessons}"""


def memory(now, before):
    rows = [[name, *(number(one["steps"][name][key]) for one in (before, now) for key in ("mb", "checkpointed_mb"))]
            for name in now["steps"]]
    s = now["shape"]
    return f"""## Memory of a step

`python -m bench memory --json bench/results/memory.json` ({origin(now)}).

{s["name"]}: {s["side"]**2} tokens of a picture, {s["prompt"]} of prompt, {s["answer"]} of each answer, {s["batch"]} pairs, in float32. MB of the tensors that live at the worst moment of a step of stage 2, beyond those between steps (`memory_before.json`: the same at the revision {before["revision"]}, where packed layers went around checkpointing).

{table(["", "all kept, before", "checkpointed, before", "all kept", "checkpointed"], rows)}
"""


def plain(axis, values):
    "Only these values along an axis, as plain numbers"
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
    short = lambda v: f"{v / 1e6:.1f}M" if v >= 1e5 else f"{v:,}"
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter(FixedFormatter([short(v) for v in values])); axis.set_minor_locator(NullLocator())


def figure(found):
    import matplotlib.pyplot as plt
    viz.style()
    names = [*scale.SERIES, "pairs"]
    fig, axes = plt.subplots(1, len(names), figsize=(3 * len(names), 3), layout="constrained")
    for ax, name in zip(axes, names):
        one = found[name]
        ax.loglog(one["x"], one["ms"], "o-", label="measured")
        ax.loglog(one["x"], [one["ms"][-1] * x / one["x"][-1] for x in one["x"]], ":", color="grey",
                  label="proportional")
        ax.set(xlabel=one["title"], title=f"exponent {one['exponent']:.2f}")
        plain(ax.xaxis, one["x"])
        plain(ax.yaxis, [100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000])
    axes[0].set_ylabel("CPU milliseconds")
    axes[0].legend()
    fig.savefig(FOLDER/"scale.png", dpi=110)
    plt.close(fig)


def growth(found):
    figure(found)
    rows = [[one["title"], ", ".join(f"{x:,}" for x in one["x"]), ", ".join(number(ms) for ms in one["ms"]),
             f"{one['exponent']:.2f}", f"{one['exponent_of_operations']:.2f}" if "gflop" in one else ""]
            for one in (found[name] for name in (*scale.SERIES, "pairs"))]
    large = [[name, number(run["exaflop"]), number(run["cache_gb"]), *(number(h) for h in run["hours"].values())]
             for name, run in found["large"].items()]
    hours = [f"hours on {n} GPU{'s' * (int(n) > 1)}" for n in next(iter(found["large"].values()))["hours"]]
    cluster = found["cluster"]
    return f"""## How the cost grows

`python -m bench scale --json bench/results/scale.json` ({origin(found)}).

One step of the released form, uncached, on the LLaVA-proportioned model with two pairs, one thing varied at a time; and a whole run of `train` with a cached reference on so many pairs.
The exponent is the slope in a log-log picture: 1 is proportional; below 1, a fixed part is shared.

![Five log-log plots of CPU time: against answer length, picture tokens, batch, size of the language model, and number of pairs, each with a dotted line for proportional growth](scale.png)

{table(["", "values", "CPU ms", "exponent", "of operations"], rows)}

### Extrapolated, not measured

LLaVA-1.5-7B's shape (576 picture tokens, 60 of prompt, answers of 110), LoRA of rank 128, gradient checkpointing: three epochs of text and one with noise, the reference of each stage computed once and cached.
Operations are counted by a formula (`bench/scale.py`, `arithmetic`; a test holds it to the operations that a real step of a small model makes).
Hours assume {scale.RATE / 1e12:.0f} TFLOP/s from each GPU, which is about 40 % of an H100's peak in bf16, all of them busy all the time. No run of this size was made.

{table(["run", "EFLOP", "cache, GB", *hours], large)}

What grows otherwise than in proportion:

- **Wire.** A step of one pair for each GPU takes {1e3 * cluster["work"]:.0f} ms of work by this arithmetic; the gradient of {cluster["adapter_weights"] / 1e6:.0f}M adapter weights in bf16 takes {1e3 * cluster["wire"]:.0f} ms around a ring at {scale.WIRE / 1e9:.0f} GB/s. Across hosts take more pairs for each step (`gradient_accumulation_steps`).
- **Cache.** It grows with the pairs, and each process writes its own files. Terabytes are not worth it: at that size pairs are seen once, and a reference computed once is not computed less often than without a cache.
- **Pairs.** Above 50,000 they stay on disk (`python -m bench pairs`). Every picture is looked at before training; for many millions, cut the file into parts and train on one after the other, each on the model with the last adapter merged in.
"""


def many(found):
    rows = [[f"{row['pairs']:,}", *(number(row[key]) for key in ("own_mb", "mapped_mb", "read_s", "once_through_s"))]
            for row in found["rows"]]
    return f"""## Many pairs

`python -m bench pairs --json bench/results/pairs.json` ({origin(found)}).

A file of pairs of 100 words is read by `as_pairs` and gone through once, in a process of its own: memory beyond what was there before, own and with mapped files (which the system takes back when it needs room), and seconds of computing.

{table(["pairs", "MB, own", "MB, with mapped files", "read, s", "once through, s"], rows)}
"""


def counting(found):
    return f"""## Scores

`python -m bench scores --json bench/results/scores.json` ({origin(found)}).

From files to numbers; {found["clock"]}.

{table(["", "seconds"], [[name, number(seconds)] for name, seconds in found["seconds"].items()])}
"""


def main(args):
    read = lambda name: json.loads((FOLDER/f"{name}.json").read_text())
    (FOLDER/"README.md").write_text("# Results\n\nWritten by `python -m bench page` from the files beside it. Times "
                                    "belong to this machine; ratios within a table are what carries over.\n\n"
                                    + training(read("train")) + "\n"
                                    + again(read("train_quick"), read("train_quick_before")) + "\n"
                                    + on_gpu(read("gpu"), read("gpu_h100")) + "\n"
                                    + memory(read("memory"), read("memory_before")) + "\n" + growth(read("scale"))
                                    + "\n" + many(read("pairs")) + "\n" + counting(read("scores")))
