"""Pairs made on a bad day: faults on the line, kills, signals, a full disk, a torn ledger, and two processes in one
folder.

What "paid twice" means here. The service counts a completion for each content when it has written it, whether or not
the reply arrives. A client that is killed, or whose line is cut, cannot know whether that happened. So there are two
promises: a service that keeps its answers (OpenAI's `store`, or any that lists them) is asked for a lost answer first,
and no completion is made twice; with a service that keeps nothing, a question is sent again only if the reply to its
last sending never arrived, and that sending stays on the client's own account at its highest price, so that the bill
stays within the budget in both cases.
"""
import json, os, random, signal, subprocess, sys, textwrap, time
from collections import Counter
from pathlib import Path
import pytest
from povid_nb import pairs
from povid_nb.batch import Batches
from povid_nb.inject import WorldInjector
from povid_nb.lies import world_examples
from povid_nb.prompts import kind_for
from server import FAULTS, KEY, serving
from test_client import client, key, no_key_in, questions      # noqa: F401 (key is a fixture)
from test_inject import LIES, play

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT/"tests"/"processes"))
from forks import LINE, forks                                        # noqa: E402

pytestmark = pytest.mark.attack

TENTH = {name: .1 / 16 for name in FAULTS if name != "fenced"}      # 10 % of all requests, 16 kinds
PRICE = (100 * .15 + 50 * .6) / 1e6                                   # of one answer of the server

# A client of less patience than a real service deserves; where the disk is full, the log must not be what fills it
HASTE = textwrap.dedent("""
    import logging, openai, resource
    from povid_nb import client, inject
    def hasty(*given, **named):
        if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY: logging.disable()
        return client.Client(*given, **named | {"settle": .5, "timeout": 1})
    inject.Client = hasty
""")

# Root, but bound by the rights of files as everybody else is
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.fixture(scope="module")
def povid(tmp_path_factory):
    "Starts `povid pairs make` with a service, in a process of its own"
    with forks(tmp_path_factory.mktemp("logs"), HASTE, OPENAI_API_KEY=KEY, OPENAI_LOG="debug") as start:
        yield lambda *given, most=0, **named: start(*words(*given, **named), most=most)


def words(service, out, n, budget=1.):
    return ["pairs", "make", "--injector", "openai", "--n", n, "--out", out, "--base-url", service.url,
            "--no-send-image", "--budget", budget]


def said(process, *codes):
    "All that a process said; it ended with one of `codes`, without a traceback and without the key"
    text = process.said(*codes)
    assert KEY not in text, text[-2000:]
    return text


def until(service, answers, process):
    "Wait for so many answers on the bill, one of them to this process"
    answers = max(answers, sum(service.paid.values()) + 1)
    while sum(service.paid.values()) < answers and process.running(): time.sleep(.002)


def damage(ledger, rng):
    "A torn last line, and torn bytes in the middle: those of one answer and of what stands beside it"
    data = bytearray(ledger.read_bytes())
    del data[-rng.randint(2, 60):]
    at = data.index(b'"event": "answer"', len(data) // 2)
    data[at - 20:at + 200] = rng.randbytes(220)
    ledger.write_bytes(bytes(data))


def examples(n):
    some = world_examples(n)
    LIES.update({p.chosen: p for p in WorldInjector().make(some)})
    # without a picture some questions are the same
    return some, len({(e.prompt, e.answer, kind_for(e)) for e in some})


def nothing_lost(out, some):
    made = list(pairs.read(out/"pairs.jsonl"))
    refused = [json.loads(line) for line in open(out/"refused.jsonl")]
    assert sorted([p.id for p in made] + [r["id"] for r in refused]) == sorted(e.id for e in some)
    assert all(r["reason"] for r in refused) and not any(r["reason"].startswith(("unsent", "failed")) for r in refused)
    return made


def sends(ledger):
    "Of each question, in the ledger's order: ask, fault, free (a fault that cost nothing) or answer"
    found = {}
    for line in ledger.read_bytes().splitlines():
        try: row = json.loads(line)
        except ValueError: continue                       # torn
        found.setdefault(row["id"], []).append("free" if row.get("free") else row["event"])
    return found


@pytest.mark.parametrize("keeps, n, kills",
                         [(True, 80, 1), pytest.param(True, 1000, 8, marks=pytest.mark.slow),
                          pytest.param(False, 1000, 8, marks=pytest.mark.slow)])
def test_a_bad_day(povid, keeps, n, kills, tmp_path):
    rng, out = random.Random(n), tmp_path/"out"
    some, different = examples(n)
    with serving(answer=play, rates=TENTH, seed=2, keeps=keeps) as service:
        ends = [signal.SIGKILL] * kills + [signal.SIGTERM, signal.SIGINT]
        service.delay = .03                                # so that a signal on a busy machine still meets work to do
        stops = sorted(rng.sample(range(16, int(different * (.8 if n >= 1000 else .5))), len(ends)))
        rng.shuffle(ends)
        for stop, end in zip(stops, ends):
            process = povid(service, out, n)
            until(service, stop, process)
            process.signal(end)
            text = said(process, -signal.SIGKILL if end == signal.SIGKILL else 130)
            assert end == signal.SIGKILL or LINE in text
        damage(out/"ledger.jsonl", rng)
        full = povid(service, out, n, most=(out/"ledger.jsonl").stat().st_size + 9_000)        # 9 kB of disk are left
        assert "File too large" in said(full, 1)
        first = povid(service, out, n)
        until(service, sum(service.paid.values()) + 5, first)
        assert "another process is at making pairs" in said(povid(service, out, n), 1)          # two in one folder
        said(first, 0)
        assert not service.bad_keys and (n < 1000 or all(service.faults[name] for name in TENTH))
        billed, free = sum(service.paid.values()), said(povid(service, out, n), 0)
        # all is there: nothing is sent
        assert sum(service.paid.values()) == billed and "pairs in" in free
        paid, bill = service.paid, service.billed
    assert len(nothing_lost(out, some)) > .88 * n
    assert len(paid) == different
    if keeps: assert set(paid.values()) == {1}
    else:
        for history in sends(out/"ledger.jsonl").values():
            # what arrived is not bought again
            assert "ask" not in history[history.index("answer"):] if "answer" in history else True
        again = sum(paid.values()) - different
        lost = sum(service.faults[name] for name in ("lost", "torn", "garbage", "slow")) + 16 * (len(ends) + 1) + 1
        assert again <= lost, "more were bought again than replies were lost"
    assert bill <= 1
    no_key_in(tmp_path)


@pytest.mark.parametrize("keeps, n",
                         [(True, 60), *(pytest.param(keeps, 1000, marks=pytest.mark.slow) for keeps in (True, False))])
def test_the_budget_holds_on_a_bad_day(povid, keeps, n, tmp_path):
    "Killed and called again, within a budget for two thirds of the questions"
    budget = n * PRICE * 2 / 3
    examples(n)
    with serving(answer=play, rates=TENTH, seed=5, keeps=keeps) as service:
        service.delay = .02
        for stop in (n // 20, n // 10):
            process = povid(service, tmp_path, n, budget=budget)
            until(service, stop, process)
            process.signal(signal.SIGKILL)
            process.wait()
        text = said(povid(service, tmp_path, n, budget=budget), 0, *(() if keeps else (1,)))
        assert "is used up" in text and 0 < service.billed <= budget


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    "In a process that is started as a user would; the key is never in the list of processes"
    if BOUND and subprocess.run([*BOUND, "true"], capture_output=True).returncode:
        pytest.skip("root keeps every right here")
    folder = tmp_path/"locked"
    folder.mkdir(mode=0o555)
    with serving(answer=play) as service:
        command = [*BOUND, sys.executable, "-m", "povid_nb.cli", *map(str, words(service, folder/"out", 5))]
        process = subprocess.Popen(command, cwd=ROOT,
                                   env=os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_LOG": "debug"}, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert KEY not in Path(f"/proc/{process.pid}/cmdline").read_text()
        text = process.communicate(timeout=600)[0]
    assert process.returncode == 1 and "Traceback" not in text and KEY not in text, text[-2000:]
    text = [line for line in text.splitlines() if "DEBUG" not in line]
    assert len(text) == 1 and "Permission denied" in text[0] and str(folder) in text[0]
    assert not service.requests


# ---- The Batch API --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n, rounds", [(60, 3), pytest.param(1000, 8, marks=pytest.mark.slow)])
def test_batches_on_a_bad_day(n, rounds, tmp_path):
    """Rows that fail, come twice, out of order, or with another name; batches that expire, are cancelled, or are
    lost on the line; kills"""
    rng, ends = random.Random(n), ["completed", "expired", "cancelled"]
    with serving() as service:
        service.polls = 0
        for round in range(rounds):
            service.batch_plan = ({"end": ends[round % 3],
                                   "row": lambda i, size: rng.choice(["ok"] * 7 + ["500", "expired", "refusal"]),
                                   "shuffle": True} | ({"lose": True} if round == 1 else {}))
            if child := os.fork(): os.waitpid(child, 0)
            # a process that submits, and is killed at a random moment
            else:
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.random() * .3)
                    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                    Batches(client(service, tmp_path)).submit(questions(n), size=40)
                finally: os._exit(0)
            try: Batches(client(service, tmp_path)).submit(questions(n), size=40)
            except ConnectionError: pass                                 # the one that was lost on the line
            while Batches(client(service, tmp_path)).collect()["still running"]: pass
        service.batch_plan = {}
        Batches(client(service, tmp_path)).submit(questions(n), size=40)
        while Batches(client(service, tmp_path)).collect()["still running"]: pass
        outcomes = client(service, tmp_path).ask(questions(n), send=False)
        assert Counter(o.status for o in outcomes).keys() <= {"ok", "refused"} and len(outcomes) == n
        assert len(service.paid) == n and set(service.paid.values()) == {1} and not service.requests
    no_key_in(tmp_path)


@pytest.mark.parametrize("kind", ["ask", "answer"])
def test_damaged_lines_are_counted_as_paid(kind, tmp_path):
    """Where both lines of a question are gone, the service is asked for the answer, and the budget counts what it
    may have cost"""
    with serving() as service:
        client(service, tmp_path).ask(questions(10))
        lines = (tmp_path/"ledger.jsonl").read_text().splitlines()
        (tmp_path/"ledger.jsonl").write_text("".join(line[:60] * ("q3" in line or kind in line)
                                                     + line * ("q3" not in line and kind not in line) + "\n"
                                                     for line in lines))
        asking = client(service, tmp_path)
        asking.ledger.refresh()
        assert asking.ledger.spent + asking.ledger.in_doubt >= service.billed
        assert all(o.status == "ok" for o in asking.ask(questions(10))) and set(service.paid.values()) == {1}
