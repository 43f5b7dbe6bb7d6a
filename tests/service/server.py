"""A paid chat service on loopback: chat completions, stored answers, files and batches of the OpenAI protocol, with
faults on order. It checks the key, counts every answer that would be on the bill, and keeps what it needs in
memory."""
import json, random, threading, time
from collections import Counter
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

KEY = "sk-test-0123456789abcdef-do-not-write-me-down"
FAULTS = {   # name: what happens; all but the first five are on the bill
    "429": "too fast, with a time to wait", "429 plain": "too fast, without one", "500": "a server error",
    "502": "a proxy's page in HTML",
    "drop": "hangs up before the answer", "lost": "hangs up in the place of the answer",
    "torn": "hangs up in the middle of the answer's body",
    "garbage": "half of a JSON body", "slow": "the answer comes when the client has given up",
    "malformed": "the answer is not JSON",
    "schema": "the answer is JSON of another schema", "prose": "a refusal in words",
    "refusal": "a refusal in its own field", "fenced": "the answer in a fence",
    "choices": "an answer with no choices", "cut": "an answer cut at its length",
    "unicode": "an answer full of odd letters"}


def echo(body):
    "What the model says when the test does not care"
    return json.dumps({"text": "fine"})


class Service:
    def __init__(self, answer=echo, rates=None, seed=0, models=("gpt-4o-mini", "gpt-4o"), keeps=True, no_schema=False,
                 slow=1.5, echo_key=False):
        self.answer, self.rates, self.models, self.keeps, self.no_schema, self.slow, self.echo_key = (answer,
            rates or {}, models, keeps, no_schema, slow, echo_key)
        self.rng, self.lock = random.Random(seed), threading.Lock()
        self.paid, self.faults, self.bad_keys, self.requests, self.recalls = Counter(), Counter(), 0, 0, 0
        self.kept, self.files, self.batches, self.bodies = {}, {}, {}, []
        self.batch_plan, self.polls, self.quota, self.delay = {}, 2, True, 0.
        self.tokens, self.billed = (100, 50), 0.    # of each answer; dollars on the bill, at the price of gpt-4o-mini
        self.reshape = lambda reply: reply          # what is sent instead of a sound reply
        self.obeys_filter, self.status = True, None # False: lists all that it keeps; a status instead of any answer

    def fault(self):
        with self.lock: dice = self.rng.random()
        for name, rate in self.rates.items():
            if dice < rate:
                self.faults[name] += 1
                return name
            dice -= rate

    def completion(self, body, fault=None):
        "Write one answer: from here on it is on the bill"
        content, refusal = self.answer(body), None
        if fault == "malformed": content = content[: len(content) // 2] + "}"
        if fault == "cut": content = content[: len(content) // 2]
        if fault == "schema": content = json.dumps({"answer": [content]})
        if fault == "unicode":
            content = content.replace(".", " \U0001f408\u200d\u2b1b\u0301\u202e\\u0000\\ud83d\u2028.")
        if fault == "fenced": content = f"Here you are:\n```json\n{content}\n```"
        if fault == "prose": content = "I'm sorry, but I can't help with that."
        if fault == "refusal": content, refusal = None, "I can't help with that."
        question = json.dumps(body["messages"], sort_keys=True)
        with self.lock:
            self.paid[question] += 1
            self.billed += (self.tokens[0] * .15 + self.tokens[1] * .6) / 1e6
            reply = {"id": f"chatcmpl-{sum(self.paid.values())}", "object": "chat.completion", "created": 0,
                     "model": body["model"], "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None,
                                  "message": {"role": "assistant", "content": content, "refusal": refusal}}],
                     "usage": {"prompt_tokens": self.tokens[0], "completion_tokens": self.tokens[1],
                               "total_tokens": sum(self.tokens)}}
            if fault == "cut": reply["choices"][0]["finish_reason"] = "length"
            if fault == "choices": reply["choices"] = []
            reply = self.reshape(reply)
            if self.keeps and body.get("store"):
                self.kept[body["metadata"]["povid"]] = {**reply, "metadata": body["metadata"]}
        return reply

    def advance(self, batch):
        "A batch moves one step each time somebody looks at it; its plan may say which rows fail, and that it expires"
        steps = ["validating", "in_progress"] + ["in_progress"] * self.polls
        batch["polls"] += 1
        if batch["status"] in ("completed", "expired", "failed"): return
        if batch["polls"] < len(steps): batch["status"] = steps[batch["polls"]]; return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        good, bad = [], []
        for i, row in enumerate(rows):
            fate = self.batch_plan.get("row", lambda i, n: "ok")(i, len(rows))
            base = {"id": f"r{i}", "custom_id": row["custom_id"]}
            if fate == "ok":
                good.append(base
                            | {"response": {"status_code": 200, "body": self.completion(row["body"])}, "error": None})
            elif fate == "refusal":
                good.append(base
                            | {"response": {"status_code": 200, "body": self.completion(row["body"], "refusal")},
                               "error": None})
            elif fate == "500":
                bad.append(base
                           | {"response": {"status_code": 500, "body": {"error": {"message": "server error"}}},
                              "error": None})
            else:
                bad.append(base
                           | {"response": None,
                              "error": {"code": "batch_expired",
                                        "message": "This request could not be executed in time."}})
        if self.batch_plan.get("shuffle"):        # out of order, one row twice, one of somebody else
            self.rng.shuffle(good)
            good += good[:1] + [good[0] | {"custom_id": "another"}] if good else []
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = "\n".join(map(json.dumps, lines)) + "\n"
        batch["request_counts"] = {"total": len(rows), "completed": len(good), "failed": len(bad)}
        batch["status"] = self.batch_plan.get("end", "completed")


def handler(service):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_): pass

        def send(self, status, body, headers=(), cut=None):
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            if cut: data = data[:cut]
            self.send_response(status)
            for name, value in (("content-type", "application/json"), ("content-length", str(len(data))), *headers):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def error(self, status, message, code=None, headers=()):
            self.send(status, {"error": {"message": message, "type": "error", "param": None, "code": code}}, headers)

        def hang_up(self):
            self.close_connection = True
            self.connection.shutdown(2)

        def allowed(self):
            if self.headers.get("authorization") == f"Bearer {KEY}": return True
            service.bad_keys += 1
            said = self.headers.get("authorization", "") if service.echo_key else "the one you sent"
            self.error(401, f"Incorrect API key provided: {said}", "invalid_api_key")

        def do_GET(self):
            if not self.allowed(): return
            parts, query = urlsplit(self.path).path.split("/")[2:], dict(parse_qsl(urlsplit(self.path).query))
            if parts == ["models"]:
                return self.send(200,
                                 {"object": "list",
                                  "data": [{"id": m, "object": "model", "created": 0, "owned_by": "x"}
                                           for m in service.models]})
            if parts == ["chat", "completions"]:
                service.recalls += 1
                if not service.keeps: return self.error(405, "Method Not Allowed")
                found = service.kept.get(query.get("metadata[povid]"))
                found = ([found] if found else []) if service.obeys_filter else list(service.kept.values())
                return self.send(200,
                                 {"object": "list", "data": found[:int(query.get("limit", 20))], "first_id": None,
                                  "last_id": None, "has_more": False})
            if parts == ["batches"]:
                return self.send(200,
                                 {"object": "list", "data": [public(b) for b in service.batches.values()],
                                  "has_more": False})
            if parts[0] == "batches":
                if parts[1] not in service.batches: return self.error(404, f"No batch found with id '{parts[1]}'.")
                batch = service.batches[parts[1]]
                service.advance(batch)
                return self.send(200, public(batch))
            if parts[0] == "files" and parts[1] in service.files: return self.send(200, service.files[parts[1]])
            self.error(404, f"no such path {self.path}")

        def do_POST(self):
            raw = self.rfile.read(int(self.headers["content-length"]))
            if not self.allowed(): return
            parts = self.path.split("/")[2:]
            if parts == ["files"]: return self.upload(raw)
            body = json.loads(raw)
            if parts == ["batches"]: return self.start_batch(body)
            if parts == ["chat", "completions"]: return self.chat(body)
            self.error(404, f"no such path {self.path}")

        def chat(self, body):
            service.requests += 1
            if body["model"] not in service.models:
                return self.error(404, f"The model `{body['model']}` does not exist", "model_not_found")
            if service.status: return self.error(service.status, "not now", headers=[("retry-after-ms", "1")])
            if not service.quota: return self.error(429, "You exceeded your current quota", "insufficient_quota")
            if service.no_schema and "response_format" in body:
                return self.error(400, "Unrecognized request argument: response_format")
            if any("FORBIDDEN" in json.dumps(m) for m in body["messages"]):
                return self.error(400, "Your request was rejected by our safety system", "content_policy_violation")
            fault = service.fault()
            if fault == "429":
                return self.error(429, "Rate limit reached", "rate_limit_exceeded", [("retry-after-ms", "5")])
            if fault == "500": return self.error(500, "The server had an error", headers=[("retry-after-ms", "5")])
            if fault == "429 plain": return self.error(429, "Rate limit reached", "rate_limit_exceeded")
            if fault == "502":
                return self.send(502, "<html><h1>502 Bad Gateway</h1></html>", [("content-type", "text/html")])
            if fault == "drop": return self.hang_up()
            if service.delay: time.sleep(service.delay)
            reply = service.completion(body, fault)
            if len(service.bodies) < 50: service.bodies.append(body)
            if fault == "lost": return self.hang_up()
            if fault == "garbage": return self.send(200, reply, cut=60)
            if fault == "torn":
                self.send_response(200)
                self.send_header("content-length", "100000")
                self.end_headers()
                self.wfile.write(json.dumps(reply).encode()[:80])
                return self.hang_up()
            if fault == "slow": time.sleep(service.slow)
            try: self.send(200, reply)
            except (BrokenPipeError, ConnectionResetError): pass      # the client is gone: killed, or tired of waiting

        def upload(self, raw):
            form = message_from_bytes(b"content-type: " + self.headers["content-type"].encode() + b"\r\n\r\n" + raw)
            fields = {part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                      for part in form.get_payload()}
            id = f"file-{len(service.files)}"
            service.files[id] = fields["file"].decode()
            self.send(200,
                      {"id": id, "object": "file", "bytes": len(fields["file"]), "created_at": 0,
                       "filename": "questions.jsonl", "purpose": fields["purpose"].decode(), "status": "processed"})

        def start_batch(self, body):
            id = f"batch_{len(service.batches)}"
            service.batches[id] = {"id": id, "object": "batch", "endpoint": body["endpoint"],
                                   "input_file_id": body["input_file_id"], "completion_window": "24h",
                                   "status": "validating", "created_at": 0, "metadata": body.get("metadata"),
                                   "polls": -1}
            if service.batch_plan.get("lose"):
                service.batch_plan = {}
                return self.hang_up()
            self.send(200, public(service.batches[id]))

    return Handler


def public(batch): return {k: v for k, v in batch.items() if k != "polls"}


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, request, address): pass          # broken connections are part of the plan


@contextmanager
def serving(**how):
    "A running `Service`, with its `url`"
    service = Service(**how)
    server = Server(("127.0.0.1", 0), handler(service))
    service.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": .05}, daemon=True)
    thread.start()
    try: yield service
    finally:
        server.shutdown()
        server.server_close()
