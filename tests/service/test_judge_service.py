"The judge over a real server with every fault: nothing lost, nothing paid twice, what cannot be read is counted"
import json, os, signal, subprocess, sys, textwrap, time
from pathlib import Path
import pytest
from povid_nb.client import Client
from povid_nb.judge import mmhal
from server import KEY, serving

ROOT = Path(__file__).parents[2]
N = 96


@pytest.fixture(autouse=True)
def key(monkeypatch): monkeypatch.setenv("OPENAI_API_KEY", KEY)


def records():
    return [dict(question=f"question {i}", gt_answer="yes", image_content=["cup"], model_answer=f"answer {i}",
                 question_type=f"t{i % 8}") for i in range(N)]


def verdict(body):
    "Rates by the number of the question and by the seed; every tenth verdict cannot be read"
    i = int(body["messages"][-1]["content"].rsplit("answer ", 1)[1].split()[0])
    return "I would rather not say." if i % 10 == 0 else f"An opinion.\nRating: {(i + body['seed']) % 7}"


def expected(times):
    rated = [[(i + seed) % 7 for seed in range(times)] for i in range(N) if i % 10]
    return sum(sum(r)/times for r in rated)/len(rated)


def client(service, folder, **how):
    return Client("gpt-4o-mini", folder/"ledger.jsonl", base_url=service.url, temperature=0, **{"budget": 100} | how)


def test_96_records_on_a_bad_line_graded_three_times(tmp_path):
    rates = {"429": .08, "500": .04, "drop": .01, "lost": .01, "garbage": .01}
    with serving(answer=verdict, rates=rates, seed=3) as service:
        s = mmhal(client(service, tmp_path), records(), times=3)
        assert all(service.faults[f] for f in rates)
        assert len(service.paid) == N and set(service.paid.values()) == {3}      # each grading paid once
        again = mmhal(client(service, tmp_path), records(), times=3)
        assert sum(service.paid.values()) == 3*N                                  # and none on the second run
    assert s.mean == pytest.approx(expected(3)) and again.mean == s.mean
    assert (s.n, s.graded, s.unreadable, s.refused, s.missing) == (N, N - 10, pytest.approx(30/288), 0, 0)


def test_refusals_and_broken_verdicts_are_counted(tmp_path):
    rates = {"refusal": .1, "prose": .1}
    with serving(answer=verdict, rates=rates, seed=4) as service:
        s = mmhal(client(service, tmp_path), records())
        assert s.refused == pytest.approx(service.faults["refusal"]/N) and s.refused > 0
        status = [g.status for g in s.gradings]
        assert status.count("ok") + status.count("unreadable") + status.count("refused") == N and s.missing == 0
        assert s.graded == status.count("ok") < N - 10 < s.n


def test_the_budget_stops_and_more_budget_goes_on(tmp_path):
    with serving(answer=verdict) as service:
        some = mmhal(client(service, tmp_path, budget=.002), records())
        paid = sum(service.paid.values())
        assert 0 < paid < N and some.missing == pytest.approx(1 - paid/N)
        full = mmhal(client(service, tmp_path), records())
        assert full.missing == 0 and full.mean == pytest.approx(expected(1)) and set(service.paid.values()) == {1}


CHILD = textwrap.dedent("""
    import sys
    sys.path.insert(0, sys.argv[3])
    from pathlib import Path
    from types import SimpleNamespace
    from test_judge_service import client, records
    from povid_nb.judge import mmhal
    s = mmhal(client(SimpleNamespace(url=sys.argv[1]), Path(sys.argv[2]), concurrency=4), records(), times=2)
    print(s.mean, s.graded, s.missing)
""")


def test_killed_twice_and_run_again(tmp_path):
    run = [sys.executable, "-c", CHILD]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with serving(answer=verdict, rates={"429": .05}, seed=5) as service:
        service.delay = .01
        run += [service.url, str(tmp_path), str(Path(__file__).parent)]
        for stop in (30, 120):
            child = subprocess.Popen(run, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while sum(service.paid.values()) < stop and child.poll() is None: time.sleep(.002)
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL, "it was to die in the middle of its work"
        last = subprocess.run(run, env=env, capture_output=True, text=True, timeout=60)
        assert last.stdout, last.stderr
        mean, graded, missing = map(float, last.stdout.split())
        assert mean == pytest.approx(expected(2)) and (graded, missing) == (N - 10, 0)
        assert len(service.paid) == N and set(service.paid.values()) == {2}      # nothing lost, nothing paid twice
    assert KEY not in (tmp_path/"ledger.jsonl").read_text()
