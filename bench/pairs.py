"""`python -m bench pairs`: memory and time of many pairs, read from a file and gone through once, in processes of
their own."""
import json, subprocess, sys, tempfile, time
from pathlib import Path

from PIL import Image

from . import measure


def write(file, n):
    "A file of so many pairs in the paper's format, each with 100 words, about one picture"
    Image.new("RGB", (8, 8)).save(file.parent/"x.png")
    turns = lambda answer: [{"from": "human", "value": "<image>\nDescribe this image in detail."},
                            {"from": "gpt", "value": answer}]
    with open(file, "w") as out:
        for i in range(n):
            answer = " ".join(f"w{(i * 31 + j) % 5000}" for j in range(100))
            out.write(json.dumps({"id": str(i), "image": "x.png", "conversations": turns(answer),
                                  "rejected_conversations": turns(answer + " lie")}) + "\n")


def resident():
    "(own, with mapped files) megabytes of this process"
    said = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return [int(said[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS")]


def one(file):
    from povid_nb.formats import as_pairs
    from povid_nb.train import pairs_digest
    before, start = resident(), time.process_time()
    found = as_pairs(file)
    read = time.process_time() - start
    count = pairs_digest(found)["count"]
    print(json.dumps({"pairs": count, "own_mb": resident()[0] - before[0], "mapped_mb": resident()[1] - before[1],
                      "read_s": read, "once_through_s": time.process_time() - start - read,
                      "on_disk": type(found).__name__ != "list"}))


def main(args):
    found = []
    print(f"{'pairs':>12}{'own MB':>10}{'mapped too':>12}{'read, s':>10}{'once through, s':>17}")
    for n in (10_000, 100_000) if args.quick else (17_000, 50_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            write(file := Path(folder)/"pairs.jsonl", n)
            out = subprocess.run([sys.executable, "-c", f"from bench.pairs import one; one({str(file)!r})"],
                                 capture_output=True, text=True, check=True)
        found.append(row := json.loads(out.stdout.splitlines()[-1]))
        print(f"{row['pairs']:12,}{row['own_mb']:10.0f}{row['mapped_mb']:12.0f}{row['read_s']:10.1f}"
              f"{row['once_through_s']:17.1f}", flush=True)
    if args.json: measure.keep({"rows": found, "machine": measure.machine()}, args.json)
