"The client against a real server that speaks the protocol, with every fault that real ones have"
import json, os, subprocess, sys, textwrap, time
from pathlib import Path
import pytest
from pydantic import BaseModel
from povid_nb.batch import Batches
from povid_nb.client import Client, Price, Request
from povid_nb.ledger import Ledger
from server import KEY, serving

ROOT = Path(__file__).parents[2]


class Text(BaseModel):
    text: str


@pytest.fixture(autouse=True)
def key(monkeypatch): monkeypatch.setenv("OPENAI_API_KEY", KEY)


def questions(n, schema=Text):
    return [Request(f"q{i}", [{"role": "user", "content": f"question {i}"}], schema) for i in range(n)]


def client(service, folder, **how):
    return Client("gpt-4o-mini", folder/"ledger.jsonl", base_url=service.url, **{"budget": 100, "settle": .3} | how)


def events(folder, event):
    return [r for r in map(json.loads, (folder/"ledger.jsonl").read_text().splitlines()) if r["event"] == event]


def no_key_in(folder):
    for file in Path(folder).rglob("*"):
        if file.is_file(): assert KEY.encode() not in file.read_bytes(), f"the key is in {file}"


RATES = {"429": .05, "500": .02, "drop": .005, "lost": .005, "malformed": .01, "refusal": .01, "garbage": .005}


def test_a_thousand_questions_on_a_bad_line(tmp_path):
    with serving(rates=RATES, seed=1) as service:
        asking = client(service, tmp_path)
        outcomes = asking.ask(questions(1000))
        assert [o.key for o in outcomes] == [f"q{i}" for i in range(1000)]          # none lost
        assert {o.status for o in outcomes} == {"ok", "refused", "malformed"}
        assert sum(o.status == "ok" for o in outcomes) > 950
        assert all(o.reason for o in outcomes if o.status != "ok")
        assert len(service.paid) == 1000 and set(service.paid.values()) == {1}      # none paid twice
        assert all(service.faults[f] for f in RATES)                                # each fault did happen
        assert service.bad_keys == 0
        assert asking.ledger.spent == pytest.approx(1000 * (100 * .15 + 50 * .6) / 1e6)
        again = client(service, tmp_path).ask(questions(1000))
        assert all(o.cached for o in again) and sum(service.paid.values()) == 1000
    assert [(o.status, o.text) for o in again] == [(o.status, o.text) for o in outcomes]
    no_key_in(tmp_path)


# What happens after SIGKILL at random points is in test_faults.py, with a thousand examples
CHILD = textwrap.dedent("""
    import sys
    from pydantic import BaseModel
    from povid_nb.client import Client, Request
    class Text(BaseModel):
        text: str
    url, folder, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ask = [Request(f"q{i}", [{"role": "user", "content": f"question {i}"}], Text) for i in range(n)]
    print("ready", flush=True)
    outcomes = Client("gpt-4o-mini", folder + "/ledger.jsonl", base_url=url, settle=float(sys.argv[4])).ask(ask)
    print(*sorted({o.status for o in outcomes}), len(outcomes))
""")


def test_an_answer_that_is_still_being_written_at_the_resume(tmp_path):
    with serving() as service:
        service.delay = 1.
        run = [sys.executable, "-c", CHILD, service.url, str(tmp_path), "16", "5"]
        child = subprocess.Popen(run, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        while service.requests < 16: time.sleep(.01)
        child.kill(); child.wait()
        # all sixteen are at work over there
        assert not service.paid
        assert all(o.status == "ok" for o in client(service, tmp_path, settle=5).ask(questions(16)))
        assert len(service.paid) == 16 and set(service.paid.values()) == {1}


def test_without_stored_answers_a_kill_costs_at_most_what_was_in_flight(tmp_path):
    with serving(keeps=False) as service:
        run = [sys.executable, "-c", CHILD, service.url, str(tmp_path), "200", "0"]
        child = subprocess.Popen(run, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL)
        while sum(service.paid.values()) < 100: time.sleep(.002)
        child.kill(); child.wait()
        assert len(client(service, tmp_path).ask(questions(200))) == 200
        assert sum(service.paid.values()) - 200 <= 16


def test_the_same_question_twice_is_paid_once(tmp_path):
    with serving() as service:
        service.delay = .05
        outcomes = client(service,
                          tmp_path).ask([Request(f"name {i}", [{"role": "user", "content": "same"}], Text)
                                         for i in range(20)])
        assert sum(service.paid.values()) == 1 and [o.key for o in outcomes] == [f"name {i}" for i in range(20)]
        client(service, tmp_path).ask([Request("x", [{"role": "user", "content": "other"}], Text)])
        client(service, tmp_path, temperature=.5).ask([Request("x", [{"role": "user", "content": "other"}], Text)])
        # another word, another parameter: another question
        assert sum(service.paid.values()) == 3


def test_questions_may_come_from_a_generator_and_are_not_all_held(tmp_path):
    held, seen = 0, []
    def making():
        nonlocal held
        for q in questions(400):
            held += 1
            seen.append(held - (tmp_path/"ledger.jsonl").read_bytes().count(b'"event": "answer"') if held % 50 == 0
                        else 0)
            yield q
    with serving() as service: assert len(client(service, tmp_path, concurrency=4).ask(making())) == 400
    assert max(seen) <= 8 * 4 + 4 + 1


def test_answers_in_fences_and_servers_without_schema(tmp_path):
    with serving(rates={"fenced": 1.}, no_schema=True) as service:
        outcomes = client(service, tmp_path).ask(questions(5))
        assert [o.status for o in outcomes] == ["ok"] * 5 and sum(service.paid.values()) == 5
        assert '"text"' in service.bodies[-1]["messages"][-1]["content"]           # the schema went along in words
        assert "response_format" not in service.bodies[-1]


def test_schema_is_sent_strict(tmp_path):
    with serving() as service:
        client(service, tmp_path).ask(questions(1))
        sent = service.bodies[0]["response_format"]["json_schema"]
        assert sent["strict"]
        assert sent["schema"]["required"] == ["text"]
        assert sent["schema"]["additionalProperties"] is False


def test_refusals_are_recorded_whatever_their_form(tmp_path):
    with serving(rates={"prose": 1.}) as service:
        assert [o.status for o in client(service, tmp_path).ask(questions(3))] == ["refused"] * 3
        service.rates = {"refusal": 1.}
        assert client(service, tmp_path).ask(questions(4)[3:])[0].reason == "I can't help with that."
        forbidden = [Request("f", [{"role": "user", "content": "FORBIDDEN"}], Text)]
        first, again = client(service, tmp_path).ask(forbidden)[0], client(service, tmp_path).ask(forbidden)[0]
        assert first.status == again.status == "refused" and "safety" in first.reason and again.cached


def test_slow_answers_are_fetched_later(tmp_path):
    with serving(rates={"slow": .2}, slow=.6, seed=1) as service:
        outcomes = client(service, tmp_path, timeout=.3, concurrency=8).ask(questions(20))
        assert service.faults["slow"]
        assert [o.status for o in outcomes] == ["ok"] * 20
        assert set(service.paid.values()) == {1}


def test_budget_is_never_passed(tmp_path):
    with serving() as service:
        asking = client(service, tmp_path, budget=.002)
        outcomes = asking.ask(questions(200))
        ok, unsent = [sum(o.status == s for o in outcomes) for s in ("ok", "unsent")]
        assert ok + unsent == 200 and ok == sum(service.paid.values()) > 10
        # used up, but for the last worst case
        assert .002 - asking.worst(questions(200)[-1]) < asking.ledger.spent <= .002
        assert "budget of $0.002" in next(o.reason for o in outcomes if o.status == "unsent")
        # spent stays spent in a new run
        assert sum(o.status == "ok" for o in client(service, tmp_path, budget=.002).ask(questions(200))) == ok
        assert all(o.status == "ok" for o in client(service, tmp_path, budget=1).ask(questions(200)))
        assert sum(service.paid.values()) == 200                                    # raising it pays for the rest only


def test_estimate_sends_nothing_and_is_close(tmp_path):
    with serving() as service:
        asking = client(service, tmp_path)
        before = asking.estimate(questions(50))
        assert service.requests == 0 and before.cached == 0 and 0 < before.cost < before.at_most
        asking.ask(questions(20))
        after = asking.estimate(questions(50))
        assert after.cached == 20 and after.at_most == pytest.approx(before.at_most * 30 / 50, rel=.01)


@pytest.mark.parametrize("how, error, words", [
    ({"key_name": "NO_SUCH_KEY"}, PermissionError, "refuses the key in NO_SUCH_KEY"),
    ({"model": "gpt-9", "price": (1, 1)}, ValueError, "does not know 'gpt-9'"),
])
def test_wrong_key_and_unknown_model_stop_at_once(tmp_path, how, error, words):
    with serving() as service:
        model = how.pop("model", "gpt-4o-mini")
        with pytest.raises(error, match=words) as caught:
            Client(model, tmp_path/"l.jsonl", base_url=service.url, **how).ask(questions(100))
        assert "\n" not in str(caught.value) and service.requests <= 16 + 1 and not service.paid


def test_missing_key_and_unknown_price_before_anything_is_sent(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY is empty"): Client(ledger=tmp_path/"l.jsonl")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ValueError, match=r"No price for 'mine'.*price=\(input, output\)"):
        Client("mine", tmp_path/"l.jsonl", base_url="http://127.0.0.1:1/v1", budget=1)


def test_unreachable_server_and_empty_account(tmp_path):
    with serving() as service:
        client(service, tmp_path).ask(questions(10))
        service.quota = False
        with pytest.raises(PermissionError, match="no money left"): client(service, tmp_path).ask(questions(30))
    with pytest.raises(ConnectionError, match="No answer from 127.0.0.1") as caught:
        client(service, tmp_path, retries=1).ask(questions(30))
    assert "\n" not in str(caught.value)
    with serving() as service:
        # the first ten are kept
        assert all(o.status == "ok" for o in client(service, tmp_path).ask(questions(30)))
        assert sum(service.paid.values()) == 20


def test_a_servers_echo_of_the_key_is_cut_out(tmp_path, monkeypatch):
    with serving(echo_key=True) as service:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-but-still-secret")
        with pytest.raises(PermissionError) as caught: client(service, tmp_path).ask(questions(3))
    assert "sk-wrong" not in str(caught.value) + repr(vars(caught.value))
    assert b"sk-wrong" not in (tmp_path/"ledger.jsonl").read_bytes()
    assert events(tmp_path, "fault")


def test_two_writers_on_one_ledger(tmp_path):
    with Ledger(tmp_path/"ledger.jsonl"), serving() as service:
        with pytest.raises(RuntimeError, match="Another program is writing"):
            client(service, tmp_path).ask(questions(1))


def test_interrupt_keeps_what_came_in(tmp_path):
    def stopping():
        yield from questions(50)
        raise KeyboardInterrupt
    with serving() as service:
        with pytest.raises(KeyboardInterrupt): client(service, tmp_path).ask(stopping())
        assert len(events(tmp_path, "answer")) == sum(service.paid.values())
        assert len(client(service, tmp_path).ask(questions(60))) == 60 and set(service.paid.values()) == {1}


def test_other_faults_of_one_question_do_not_stop_the_rest(tmp_path):
    with serving(rates={"500": 1.}) as service:
        outcomes = client(service, tmp_path, retries=1).ask(questions(3))
        assert [o.status for o in outcomes] == ["failed"] * 3 and "500" in outcomes[0].reason
        service.rates = {}
        assert [o.status for o in client(service, tmp_path).ask(questions(3))] == ["ok"] * 3


# ---- Batches --------------------------------------------------------------------------------------------------------

def test_a_batch_from_submit_to_ask(tmp_path):
    with serving() as service:
        client(service, tmp_path).ask(questions(5))
        assert Batches(client(service, tmp_path)).submit(questions(40), size=20)["sent"] == 35
        assert len(service.batches) == 2
        held = client(service, tmp_path).ask(questions(40))
        assert [o.status for o in held].count("unsent") == 35 and "collect() it first" in held[-1].reason
        # it is on its way
        assert Batches(client(service, tmp_path)).submit(questions(40)) == {"sent": 0, "held back by the budget": 0}
        seen = [Batches(client(service, tmp_path)).status()[0]["status"] for _ in range(2)]
        assert seen[-1] == "in_progress" and Batches(client(service, tmp_path)).collect()["still running"] == 35
        while True:
            # each call a new program
            counts = Batches(client(service, tmp_path)).collect()
            if not counts["still running"]: break
        assert counts["answered"] == 35
        outcomes = client(service, tmp_path).ask(questions(40))
        assert all(o.status == "ok" and o.cached for o in outcomes)
        assert set(service.paid.values()) == {1}
        assert outcomes[-1].cost == pytest.approx(outcomes[0].cost / 2)                       # half the price
    no_key_in(tmp_path)


def finish(service, folder):
    total = {}
    while True:
        counts = Batches(client(service, folder)).collect()
        for k, v in counts.items(): total[k] = total.get(k, 0) + v
        if not counts["still running"]: return total


def test_partial_failure_and_expiry_are_sent_again(tmp_path):
    with serving() as service:
        service.polls = 0
        service.batch_plan = {"row": lambda i, n: "500" if i == 3 else "refusal" if i == 4 else "ok"}
        Batches(client(service, tmp_path)).submit(questions(10))
        assert (t := finish(service, tmp_path))["failed"] == 1 and t["answered"] == 9
        service.batch_plan = {"row": lambda i, n: "ok" if i < 6 else "expired", "end": "expired"}
        # ten new ones and the one that failed
        assert Batches(client(service, tmp_path)).submit(questions(20))["sent"] == 11
        assert (t := finish(service, tmp_path))["answered"] == 6 and t["failed"] + t["not reached"] == 5
        service.batch_plan = {}
        assert Batches(client(service, tmp_path)).submit(questions(20))["sent"] == 5
        finish(service, tmp_path)
        outcomes = client(service, tmp_path).ask(questions(20))
        assert all(o.cached for o in outcomes) and [o.status for o in outcomes].count("refused") == 1
        assert len(service.paid) == 20 and set(service.paid.values()) == {1}


def test_a_batch_that_was_made_while_the_line_broke_is_found_again(tmp_path):
    with serving() as service:
        service.polls, service.batch_plan = 0, {"lose": True}
        with pytest.raises(ConnectionError): Batches(client(service, tmp_path)).submit(questions(10))
        assert len(service.batches) == 1
        assert Batches(client(service, tmp_path)).submit(questions(10))["sent"] == 0 and len(service.batches) == 1
        assert finish(service, tmp_path)["answered"] == 10 and set(service.paid.values()) == {1}


def test_budget_holds_for_batches_too(tmp_path):
    with serving() as service:
        sent = Batches(client(service, tmp_path, budget=.002)).submit(questions(50))
        assert 0 < sent["sent"] < 10 and sent["sent"] + sent["held back by the budget"] == 50
        # promised money is not there twice
        assert Batches(client(service, tmp_path, budget=.002)).submit(questions(50))["sent"] == 0


def test_tokens_are_counted_with_pictures():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    assert (Price(1, 1, 85).tokens([{"role": "user", "content": [picture, {"type": "text", "text": "abcd"}]}]) == 1
            + 4 + 85)


def test_a_ledger_is_read_once_whatever_was_torn(tmp_path):
    "Reading goes on where it stopped, also behind a torn line and behind lines that are no records"
    path = tmp_path/"ledger.jsonl"
    with Ledger(path) as book: book.add("answer", id="a", text="", cost=1.)
    with open(path, "ab") as f: f.write(b'[1]\n{"event": "answer"}\n{"event": "answer", "id": "b", "co')
    book = Ledger(path)
    for n in range(3):
        with book: book.add("answer", id=f"c{n}", text="", cost=1.)
        assert book.read == path.stat().st_size and book.spent == n + 2
    assert set(book.answers) == {"a", "c0", "c1", "c2"} and path.read_bytes().endswith(b"\n")
    idle = Ledger(path)
    # another program is writing just now
    with open(path, "ab") as f: f.write(b'{"event": "answer", "id": "half')
    idle.refresh()
    assert idle.spent == 4 and not path.read_bytes().endswith(b"\n")
