"""Training and `povid run` on a bad day: killed at random moments by the clock, on one process and on two; a full
disk; damaged files.

What was trained is the same to the bit, what is reported is the same, and whatever cannot go on is one line.
The short version runs by default; `pytest --slow` kills ten times, cuts the disk off at every kind of file and damages
many files.
"""
import itertools, json, os, random, re, shutil, signal, subprocess, sys, time
from pathlib import Path
import pytest
import torch
from safetensors.torch import load_file
from povid_nb.procs import locked
from forks import LINE, ROOT, forks
from test_run_processes import figures, text

pytestmark = pytest.mark.attack

SHORT = ("--batch-size", "2", "--max-steps", "4", "--save-steps", "1", "--set", "stage2.form=released", "--noise-step",
         "700")
SMALL = ("--pairs", "6", "--n", "2", "--set", "batch_size=2", "--set", "max_steps=2", "--set", "save_steps=1", "--set",
         "learning_rate=2e-3")
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
slow = lambda *values: pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    with forks(tmp_path_factory.mktemp("logs")) as start: yield start


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from povid_nb.inject import make_pairs
    folder = tmp_path_factory.mktemp("pairs")
    make_pairs(n=10, out=folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def command(data):
    "The words of each command, for a folder"
    return {"train": lambda out: ("train", "--data", data, "--out", out, *SHORT),
            "run": lambda out: ("run", "--out", out, *SMALL)}


@pytest.fixture(scope="module")
def undisturbed(start, command, tmp_path_factory):
    "The folder of a command that nothing disturbed, and how many seconds it took; made once for each"
    made = {}
    def whole(verb, processes=1):
        if (verb, processes) not in made:
            out, began = tmp_path_factory.mktemp(f"whole-{verb}-{processes}")/"out", time.monotonic()
            start(*command[verb](out), processes=processes).said(0)
            made[verb, processes] = out, time.monotonic() - began
        return made[verb, processes]
    return whole


def weights(out): return load_file(out/"adapter"/"adapter_model.safetensors")


def same(verb, whole, out):
    "The same weights to the bit; the same report"
    if verb == "run":
        assert figures(whole) == figures(out)
        return text(whole) == text(out)
    one, two = weights(whole), weights(out)
    assert max(v.abs().max() for name, v in one.items()
               if "lora_B" in name) > 0, "nothing was learnt, so nothing was shown"
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def lives(begin, folder, kills, seconds, rng):
    """One life after the other in folders of their own, each ended at random moments and called again, until there
    were so many ends"""
    ended, out = [], folder/"0"
    for end in itertools.cycle(ENDS):
        if len(ended) == kills: break
        it, began = begin(out), time.monotonic()
        time.sleep(rng.random() * seconds)
        it.signal(end)
        codes = it.wait()
        # it had finished: another life, and less time for the next
        if set(codes) == {0}:
            seconds = min(seconds, time.monotonic() - began)
            yield out, ended
            out = folder/f"{len(list(folder.iterdir()))}"
            continue
        said = it.said(*((-signal.SIGKILL,) if end == signal.SIGKILL else (130,) if len(codes) == 1 else (130, 1)))
        assert end == signal.SIGKILL or LINE in said
        ended.append((out.name, end.name))
    begin(out).said(0)
    yield out, ended


@pytest.mark.parametrize("verb, processes, kills",
                         [("train", 1, 2), slow("train", 1, 10), slow("train", 2, 10), slow("run", 1, 10),
                          slow("run", 2, 10)])
def test_killed_at_random_moments_it_ends_the_same(start, command, undisturbed, tmp_path, verb, processes, kills):
    whole, seconds = undisturbed(verb, processes)
    begin = lambda out: start(*command[verb](out), processes=processes)
    for out, ended in lives(begin, tmp_path, kills, seconds, random.Random(kills + 1)):
        assert same(verb, whole, out), ended
    assert len(ended) == kills
    assert not [file for file in tmp_path.rglob("*.part") if file.stat().st_mtime > time.time() + 1]


@pytest.mark.slow
def test_where_one_of_two_is_killed_the_other_ends_too(start, command, undisturbed, tmp_path):
    "And the same command then ends with the weights of a run that nothing disturbed"
    it = start(*command["train"](tmp_path/"out"), processes=2)
    while not list(tmp_path.rglob("checkpoint-*/whole.json")) and it.running(): time.sleep(.05)
    it.signal(signal.SIGKILL, 1)
    said = it.said(1, -signal.SIGKILL)
    assert "error:" in said
    start(*command["train"](tmp_path/"out"), processes=2).said(0)
    assert same("train", undisturbed("train", 2)[0], tmp_path/"out")


@pytest.mark.parametrize("verb, largest",
                         [("train", 4_000), slow("train", 600), slow("train", "adapter_model.safetensors"),
                          slow("train", "optimizer.pt"), slow("train", "rng_state.pth"),
                          slow("train", "trainer_state.json"),
                                           slow("run", 100), slow("run", 4_000),
                          slow("run", "adapter_model.safetensors"), slow("run", "optimizer.pt"),
                          slow("run", "report.html")])
def test_a_full_disk_costs_one_line_and_no_work(start, command, undisturbed, tmp_path, verb, largest):
    "No file may grow beyond so many bytes, or to the size of the named file: writing stops in its middle"
    whole, _ = undisturbed(verb)
    if isinstance(largest, str): largest = max(file.stat().st_size for file in whole.rglob(largest)) - 100
    said = start(*command[verb](tmp_path/"out"), most=largest).said(1)
    assert said.splitlines()[-1].startswith("error: ") and said.count("error:") == 1 and "the disk is full" in said, (
        said[-500:])
    start(*command[verb](tmp_path/"out")).said(0)
    assert same(verb, whole, tmp_path/"out")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "run"])
def test_a_disk_that_really_is_full(start, command, undisturbed, tmp_path, verb):
    "A disk of 3 MB, and a larger one afterwards; needs the right to mount"
    whole, _ = undisturbed(verb)
    disk = tmp_path/"disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount a disk")
    try:
        said = start(*command[verb](disk/"out")).said(1)
        assert said.splitlines()[-1].startswith("error: the disk is full"), said[-500:]
        subprocess.run(["mount", "-o", "remount,size=300m", disk], check=True)
        start(*command[verb](disk/"out")).said(0)
        assert same(verb, whole, disk/"out")
    finally: subprocess.run(["umount", disk], check=True)


DAMAGE = {"gone": Path.unlink, "empty": lambda file: file.write_bytes(b""),
          "half": lambda file: os.truncate(file, file.stat().st_size // 2), "another bit": lambda file: flip(file),
          "another's": lambda file: file.write_bytes(b'{"seal": "none"}\n')}


def flip(file):
    data = bytearray(file.read_bytes())
    if data: data[len(data) * 2 // 3] ^= 1
    file.write_bytes(data)


def written(out):
    "What a command left and would read again"
    return sorted(file for file in out.rglob("*") if file.is_file() and not file.name.startswith(".")
                  and "checkpoint-" not in str(file) and "/cache/" not in str(file))


@pytest.mark.parametrize("verb, many", [("train", 1), slow("train", 12), slow("run", 25)])
def test_a_damaged_file_is_noticed_and_redone_or_named_in_one_line(start, command, undisturbed, tmp_path, verb, many):
    whole, _ = undisturbed(verb)
    rng, files = random.Random(many), written(whole)
    for number, file in enumerate(rng.sample(files, min(many, len(files)))):
        out, how = tmp_path/f"{number}", rng.choice(sorted(DAMAGE))
        shutil.copytree(whole, out)
        about = f"{file.relative_to(whole)}: {how}"
        DAMAGE[how](out/file.relative_to(whole))
        said = (it := start(*command[verb](out))).said(0, 1)
        if it.codes == [0]: assert same(verb, whole, out), about
        else:
            assert (said.splitlines()[-1].startswith("error: ") and said.count("error:") == 1
                    and "unexpected" not in said), (about, said[-500:])
        shutil.rmtree(out)


@pytest.mark.slow
def test_another_seed_in_the_same_folder_touches_nothing_that_is_there(start, command, undisturbed, tmp_path):
    "And the first command then finds its own results again, without any work"
    whole, _ = undisturbed("run")
    shutil.copytree(whole, tmp_path/"out")
    there = {file: file.read_bytes() for file in written(tmp_path/"out") if file.parent != tmp_path/"out"}
    assert "settings have changed; the earlier result stays in" in start(*command["run"](tmp_path/"out"), "--seed",
        "1").said(0)
    assert there and all(file.read_bytes() == data for file, data in there.items())
    assert figures(tmp_path/"out") != figures(whole)
    assert "settings have changed" not in start(*command["run"](tmp_path/"out")).said(0)
    assert same("run", whole, tmp_path/"out")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["train", "run"])
def test_torchrun_is_stopped_and_killed_and_goes_on(command, undisturbed, tmp_path, verb):
    "The real launcher: SIGTERM to it, SIGKILL to all, SIGKILL to one of its two"
    whole, seconds = undisturbed(verb, 2)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
             "povid_nb.cli", *command[verb](tmp_path/"out")]
    def launch():
        log = open(tmp_path/"log", "a")
        return subprocess.Popen([*map(str, words)], stdout=log, stderr=log, start_new_session=True,
                                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    for end in ("term", "kill", "one"):
        before = len(list(tmp_path.rglob("*")))
        process = launch()
        while len(list(tmp_path.rglob("*"))) < before + 12 and process.poll() is None: time.sleep(.05)
        if end == "term": process.terminate()
        elif end == "kill": os.killpg(process.pid, signal.SIGKILL)
        else:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children: os.kill(int(children[-1]), signal.SIGKILL)
        assert process.wait(300) != 0 or end == "one"
    assert launch().wait(600) == 0, (tmp_path/"log").read_text()[-3000:]
    assert same(verb, whole, tmp_path/"out")


@pytest.mark.parametrize("verb", ["train", slow("run")])
def test_two_in_one_folder_are_one_line(start, command, tmp_path, verb):
    code = (f"import time\nfrom povid_nb.procs import locked\nwith locked({str(tmp_path/'out')!r}, 'a run'): "
            f"print('in', flush=True); time.sleep(600)")
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                             env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        assert other.stdout.readline() == "in\n"
        said = start(*command[verb](tmp_path/"out")).said(1)
        assert re.search(r"^error: another process is at .* wait for it, or name another folder$", said, re.M), said
    finally:
        other.kill()
        other.wait()
    with locked(tmp_path/"out"): pass
