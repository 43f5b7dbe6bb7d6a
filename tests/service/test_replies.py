"Replies of every shape, through the client and the Batch API: paid once, kept, and answered with one line"
import email.utils, json, time
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from povid_nb.batch import Batches
from povid_nb.client import Client
from server import KEY, serving
from test_client import client, events, finish, key, questions      # noqa: F401 (key is a fixture)


def without(reply, name): return {k: v for k, v in reply.items() if k != name}
def said(reply, **message): return reply | {"choices": [reply["choices"][0] | {"message": message}]}


# shape of the reply -> (how the question ends, words of its reason)
SHAPES = {
    "no message": (lambda r: r | {"choices": [r["choices"][0] | {"message": None}]}, "malformed",
                   "the answer is empty"),
    "no choices": (lambda r: r | {"choices": []}, "malformed", "the answer is empty; the service sent"),
    "choices is null": (lambda r: r | {"choices": None}, "malformed", "the answer is empty"),
    "choices missing": (lambda r: without(r, "choices"), "malformed", "the answer is empty"),
    "content is a number": (lambda r: said(r, role="assistant", content=7), "malformed", "the answer is empty"),
    "content is null": (lambda r: said(r, role="assistant", content=None), "malformed", "the answer is empty"),
    "content is a list": (lambda r: said(r, role="assistant",
                                         content=[{"type": "text", "text": '{"text": '},
                                                  {"type": "text", "text": '"fine"}'}]), "ok", ""),
    "content is a list of nothing": (lambda r: said(r, content=[None, 3, {"type": "image"}]), "malformed",
                                     "the answer is empty"),
    "refusal is a number": (lambda r: said(r, content='{"text": "fine"}', refusal=3), "ok", ""),
    "finish is a number": (lambda r: r | {"choices": [r["choices"][0] | {"finish_reason": 3}]}, "ok", ""),
    "usage is empty": (lambda r: r | {"usage": {}}, "ok", ""),
    "usage is missing": (lambda r: without(r, "usage"), "ok", ""),
    "usage is text": (lambda r: r | {"usage": "much"}, "ok", ""),
    "usage below zero": (lambda r: r | {"usage": {"prompt_tokens": -5, "completion_tokens": 10**9}}, "ok", ""),
    "the body is a list": (lambda r: [r], "malformed", "the answer is empty"),
    "the body is null": (lambda r: None, "malformed", "the answer is empty"),
    "the body is text": (lambda r: json.dumps("fine"), "malformed", "the answer is empty")}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_odd_reply_is_kept_and_not_bought_again(shape, tmp_path):
    reshape, status, reason = SHAPES[shape]
    with serving(keeps=False) as service:
        service.reshape = reshape
        first = client(service, tmp_path).ask(questions(3))
        assert {o.status for o in first} == {status}
        assert all(reason in o.reason and "\n" not in o.reason for o in first)
        service.reshape = lambda reply: reply
        # a healthy server: three are in the ledger, one is new
        again = client(service, tmp_path).ask(questions(4))
        assert [o.status for o in again] == [status] * 3 + ["ok"] and sum(service.paid.values()) == 4
    kept = events(tmp_path, "answer")
    assert all(row["text"] or row["raw"] for row in kept)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_odd_row_of_a_batch_leaves_the_others_alone(shape, tmp_path):
    reshape, status, _ = SHAPES[shape]
    with serving() as service:
        service.polls, service.reshape = 0, reshape
        Batches(client(service, tmp_path)).submit(questions(3))
        assert finish(service, tmp_path)["answered"] == 3
        assert [o.status for o in client(service, tmp_path).ask(questions(3))] == [status] * 3
        assert service.requests == 0


def spoil(service, change):
    "Let `change` rewrite the lines of result files"
    name = next(name for name, text in service.files.items() if '"response"' in text)
    service.files[name] = "\n".join(change(service.files[name].splitlines()))


ROWS = {
    "no custom_id": (lambda row: without(row, "custom_id"), "unreadable"),
    "another custom_id": (lambda row: row | {"custom_id": "somebody else's"}, "unreadable"),
    "custom_id is a list": (lambda row: row | {"custom_id": []}, "unreadable"),
    "a list": (lambda row: [row], "unreadable"),
    "null": (lambda row: None, "unreadable"),
    "error is text": (lambda row: row | {"response": None, "error": "too late"}, "failed"),
    "error is a list": (lambda row: row | {"response": None, "error": ["too late"]}, "failed"),
    "status is text": (lambda row: row | {"response": {"status_code": "bad"}}, "failed"),
    "nothing": (lambda row: {"custom_id": row["custom_id"]}, "failed")}


@pytest.mark.parametrize("name", [*ROWS, "torn"])
def test_one_bad_row_of_thirty(name, tmp_path):
    with serving() as service:
        service.polls = 0
        Batches(client(service, tmp_path)).submit(questions(30))
        while Batches(client(service, tmp_path)).status()[0]["status"] != "completed": pass
        end = "unreadable" if name == "torn" else ROWS[name][1]
        def change(lines):
            bad = lines[7][:40] if name == "torn" else json.dumps(ROWS[name][0](json.loads(lines[7])))
            return [*lines[:7], *lines[8:], bad]
        spoil(service, change)
        counts = Batches(client(service, tmp_path)).collect()
        assert counts["answered"] == 29 and counts[end] == 1
        asking = client(service, tmp_path)
        # the one that is missing, and no other
        assert Batches(asking).submit(questions(30))["sent"] == 1
        # it may have been paid for
        assert (end == "unreadable") == (asking.ledger.spent > 29 * (100 * .15 + 50 * .6) / 2e6 + 1e-9)


def test_a_batch_that_the_service_no_longer_has_does_not_block_the_others(tmp_path):
    with serving() as service:
        service.polls = 0
        Batches(client(service, tmp_path)).submit(questions(10), size=5)
        del service.batches["batch_0"]
        assert finish(service, tmp_path)["answered"] == 5
        assert Batches(client(service, tmp_path)).status() == []
        asking = client(service, tmp_path)
        assert [o.status for o in asking.ask(questions(10), send=False)].count("ok") == 5
        # its most counts: it may have been paid for
        assert asking.ledger.spent > 5 * asking.worst(questions(1)[0]) / 2


def test_result_files_that_are_gone_end_the_batch(tmp_path):
    with serving() as service:
        service.polls = 0
        Batches(client(service, tmp_path)).submit(questions(4))
        while Batches(client(service, tmp_path)).status()[0]["status"] != "completed": pass
        service.files = {name: text for name, text in service.files.items() if "response" not in text}
        assert Batches(client(service, tmp_path)).collect()["unreadable"] == 4
        assert Batches(client(service, tmp_path)).submit(questions(4))["sent"] == 4


def test_a_service_without_batches_is_one_line(tmp_path):
    import http.server, threading
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    server.RequestHandlerClass.do_POST = lambda self: (self.rfile.read(int(self.headers["content-length"])),
                                                       self.send_error(404))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asking = Client("gpt-4o-mini", tmp_path/"l.jsonl", base_url=f"http://127.0.0.1:{server.server_port}/v1", budget=1)
    with pytest.raises(ValueError, match="no Batch API") as error: Batches(asking).submit(questions(2))
    server.shutdown()
    assert "\n" not in str(error.value)


# ---- The budget -----------------------------------------------------------------------------------------------------

BUDGET = .003
FAULTY = {
    "no usage": dict(reshape=lambda r: without(r, "usage")),
    "usage of zeros": dict(reshape=lambda r: r | {"usage": {"prompt_tokens": 0, "completion_tokens": 0}}),
    "empty choices": dict(reshape=lambda r: r | {"choices": []}),
    "an error inside": dict(reshape=lambda r: {"error": {"message": "oh"}}),
    "lost answers": dict(rates={"lost": .3}),
    "half answers": dict(rates={"garbage": .3}),
    "more tokens than allowed": dict(tokens=(100, 4000)),
    "more tokens than counted": dict(tokens=(10_000, 50))}


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("name", FAULTY)
def test_the_bill_never_passes_the_budget(name, keeps, tmp_path):
    "Over three runs, on services that lose answers, do not count them, or do not keep to what was asked"
    with serving(keeps=keeps, seed=3) as service:
        for attribute, value in FAULTY[name].items(): setattr(service, attribute, value)
        for _ in range(3):
            try: client(service, tmp_path, budget=BUDGET, retries=2, settle=.05).ask(questions(120))
            except (ValueError, ConnectionError) as error: assert "\n" not in str(error)
        assert 0 < service.billed <= BUDGET


def test_a_service_that_ignores_the_limits_is_named(tmp_path):
    with serving() as service:
        service.tokens = (100, 4000)
        with pytest.raises(ValueError, match="An answer cost .* the budget of .0.003 cannot be kept"):
            client(service, tmp_path, budget=BUDGET).ask(questions(50))
        assert sum(service.paid.values()) == 1
        # without a budget there is none to keep
        assert all(o.status == "ok" for o in client(service, tmp_path, budget=None).ask(questions(50)))


@pytest.mark.parametrize("budget", [-1, 0, float("nan")])
def test_a_budget_of_nothing_is_refused(budget, tmp_path):
    with serving() as service, pytest.raises(ValueError, match="expected more than 0"):
        client(service, tmp_path, budget=budget)


# ---- Paid twice -----------------------------------------------------------------------------------------------------

def test_an_answer_that_takes_longer_than_the_client_waits(tmp_path):
    "The service stores; the client gives up after .3 s, and then looks for as long, however small `settle` is"
    with serving(rates={"slow": 1.}, slow=.45, seed=1) as service:
        service.delay = .35
        asking = Client("gpt-4o-mini", tmp_path/"ledger.jsonl", base_url=service.url, budget=100, timeout=.3,
                        settle=.01)
        assert [o.status for o in asking.ask(questions(8))] == ["ok"] * 8
        assert set(service.paid.values()) == {1}


def test_answers_of_others_are_not_taken(tmp_path):
    "A service that ignores the filter lists all that it keeps: each question gets its own answer or is sent again"
    with serving(answer=lambda body: json.dumps({"text": body["messages"][-1]["content"][:12]}), rates={"lost": .3},
                 seed=2) as service:
        service.obeys_filter = False
        outcomes = client(service, tmp_path).ask(questions(60))
    assert [o.value.text for o in outcomes] == [f"question {i}"[:12] for i in range(60)]


def test_a_clock_that_was_set_back_makes_nobody_wait(tmp_path):
    with serving() as service:
        asking = client(service, tmp_path, settle=.2)
        id = asking.fingerprint(questions(1)[0])
        (tmp_path/"ledger.jsonl").write_text(json.dumps({"time": "2199-01-01T00:00:00+00:00", "event": "ask", "id": id,
                                                         "worst": .001}) + "\n")
        assert asking.ask(questions(1))[0].status == "ok"
        assert 1 <= service.recalls <= 3


# ---- The end of it --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_service_that_only_says_no_is_left_alone(status, tmp_path):
    with serving(keeps=False) as service:
        service.status = status
        with pytest.raises(ConnectionError, match=f"No answer from 127.0.0.1 .{status} not now. after 3 tries"):
            client(service, tmp_path, retries=2).ask(questions(300))
        assert service.requests < 3 * (16 + 5)
        service.status = None
        assert all(o.status == "ok" for o in client(service, tmp_path).ask(questions(20)))


def test_too_fast_makes_all_wait(tmp_path):
    "After one 429 every other question waits, too, before it leaves"
    waits = []
    with serving() as service:
        service.status = 429
        asking = client(service, tmp_path, retries=10_000)
        asking.patience = lambda error, attempt: 3600.
        asking._pause.wait = lambda seconds: waits.append(seconds) or False          # nobody sleeps here
        def one_and_then_the_others():
            yield from questions(1)
            while not asking._rest: pass
            service.status = None
            yield from questions(10)[1:]
        assert [o.status for o in asking.ask(one_and_then_the_others())] == ["ok"] * 10
    assert sum(seconds > 3000 for seconds in waits) >= 9


def test_the_time_to_wait_may_be_a_date(tmp_path):
    asking = Client("gpt-4o-mini", tmp_path/"l.jsonl", base_url="http://127.0.0.1:1/v1")
    error = type("E", (),
                 {"response": type("R", (),
                                   {"headers": {"retry-after": email.utils.formatdate(time.time() + 30,
                                       usegmt=True)}})})()
    assert 20 < asking.patience(error, 0) <= 31
    error.response.headers["retry-after"] = "soon"
    assert asking.patience(error, 0) <= .5


# ---- The key --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad",
                         ["sk-first\nsk-second-line", "sk with blanks in it", "sk-ключ-0123456789",
                          "sk-\x00-0123456789"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(bad, tmp_path, monkeypatch):
    if "\x00" not in bad: monkeypatch.setenv("OPENAI_API_KEY", bad)
    else: monkeypatch.setattr("os.environ", {"OPENAI_API_KEY": bad})
    with pytest.raises(ValueError, match="The key in OPENAI_API_KEY has a line break") as error:
        Client(ledger=tmp_path/"l.jsonl", base_url="http://127.0.0.1:1/v1")
    assert bad[:8] not in str(error.value) and not (tmp_path/"l.jsonl").exists()


@pytest.mark.parametrize("short", ["x", "text", "1", "fine", "id"])
def test_the_short_keys_of_local_servers_break_nothing(short, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", short)
    monkeypatch.setattr("server.KEY", short)
    with serving() as service:
        assert [o.value.text for o in client(service, tmp_path).ask(questions(3))] == ["fine"] * 3
        assert [(o.value.text, o.cached) for o in client(service, tmp_path).ask(questions(3))] == [("fine", True)] * 3


# ---- A damaged ledger -----------------------------------------------------------------------------------------------

json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
                           lambda inner: st.lists(inner, max_size=2)
                           | st.dictionaries(st.text(max_size=4), inner, max_size=2), max_leaves=4)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    "The lines of a ledger with answers, a refusal, an odd reply and a batch, and the questions"
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch, serving() as service:
        patch.setenv("OPENAI_API_KEY", KEY)
        client(service, folder).ask(questions(2))
        service.reshape = lambda reply: reply | {"choices": []}
        client(service, folder).ask(questions(3))
        service.reshape, service.rates = lambda reply: reply, {"refusal": 1.}
        client(service, folder).ask(questions(4))
        Batches(client(service, folder)).submit(questions(6))
    return (folder/"ledger.jsonl").read_text().splitlines()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_ledger_costs_what_is_damaged(sound, tmp_path, data):
    "A field of a line replaced by anything, or bytes of it: the other lines count, and every question has an outcome"
    lines = list(sound)
    at = data.draw(st.integers(0, len(lines) - 1))
    if data.draw(st.booleans()):
        row = json.loads(lines[at])
        row[data.draw(st.sampled_from(sorted(row)))] = data.draw(json_values)
        lines[at] = json.dumps(row)
    else:
        lines[at] = (lines[at][:data.draw(st.integers(0, 40))] + data.draw(st.sampled_from(['"', "{", "\\", "7", ""]))
                     + lines[at][data.draw(st.integers(0, 80)):])
    path = tmp_path/f"{data.draw(st.uuids())}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    asking = Client("gpt-4o-mini", path, base_url="http://127.0.0.1:1/v1", budget=1)
    outcomes = asking.ask(questions(7), send=False)
    assert [o.key for o in outcomes] == [f"q{i}" for i in range(7)]
    assert all(isinstance(o.reason, str) and isinstance(o.text, str) for o in outcomes)
    assert [o.status for o in outcomes].count("ok") >= 1
    assert 0 <= asking.ledger.spent < float("inf")
    assert asking.ledger.in_doubt >= 0
