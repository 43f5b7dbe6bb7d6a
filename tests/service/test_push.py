"An adapter is packed with its card, sent to a hub on loopback, fetched again, and shown in a Space"
import base64, functools, json, os, re, runpy, shutil, subprocess, sys, threading, types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import pytest, yaml
from huggingface_hub import ModelCard
from povid_nb import formats, inject, push, world
from povid_nb.cache import fingerprint
from povid_nb.load import _damage
from povid_nb.steps import _digest_of_file
from povid_nb.train import pairs_digest
from povid_nb.vlm import VLM

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT/"povid_nb"/"tiny"/"adapters"/"stage2"
FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "povid.json"}
SECRET = "hf_" + "abcdefghij" * 3


@functools.cache
def weights(): return fingerprint(VLM.load())


def record(folder, **changes):
    "The record that a finished training leaves"
    files = {name: _digest_of_file(folder/name) for name in ("adapter_model.safetensors", "adapter_config.json")}
    settings = dict(form="paper", learning_rate=.001, num_train_epochs=1, beta=.1, seed=3, noise_step=450,
                    batch_size=8, accumulation=2, processes=1)
    one = dict(stage=2, base=weights(), over=None, pairs=dict(count=48, content="d1ge57"), settings=settings, steps=7,
               versions={"torch": "2.5"})
    return {**one, "stages": [one], "made_of": ["/home/somebody/secret-project/run/stage2"], "files": files, **changes}


def adapter(folder, base="/home/somebody/lib/povid_nb/tiny", **changes):
    "The folder of an adapter, made of one that ships"
    folder.mkdir(parents=True)
    config = json.loads((SHIPPED/"adapter_config.json").read_text())
    (folder/"adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    shutil.copy(SHIPPED/"adapter_model.safetensors", folder)
    (folder/"povid.json").write_text(json.dumps(record(folder, **changes)))
    return folder


def scored(bench, n, **values):
    "A score as the library writes it; each value with its interval"
    return {"bench": bench, "n": n, "protocol": {"scorer": "a scorer", "versions": {}},
            "intervals": {k: v[1:] for k, v in values.items()},
            **{k: v[0] for k, v in values.items()}}


@pytest.fixture
def run(tmp_path):
    "A run with two trainings of stage 2, and files that are nobody's business"
    out = tmp_path/"run"
    adapter(out/"stage2-0123abcd"/"adapter")
    adapter(out/"stage2"/"adapter", steps=1)
    for name in ("stage2/checkpoint-5/optimizer.pt", "stage2/adapter/.env", "cache/features.bin",
                 "stage2-0123abcd/adapter/training_args.bin"):
        (out/name).parent.mkdir(parents=True, exist_ok=True)
        (out/name).write_text(SECRET)
    chair = lambda s: {"counter": {"chair": scored("chair", 50, chair_s=(s, s - .04, s + .05), chair_i=(.2, .1, .3),
                                                   recall=(.885, .871, .899), words=(40.25, 39, 41.5))}}
    change = {k: dict(difference=-.642, low=-.7, high=-.6, p=0.) for k in ("chair_s", "recall")}
    results = {"base": chair(.742), "sft": chair(.114), "stage2": chair(.1),
               "differences": {"counter": {"stage2 - base": change}}}
    (out/"report.json").write_text(json.dumps(results | {"command": "povid run", "seconds": {}}))
    about = dict(settings={"data": None, "seed": 3},
                 command="povid run --out /home/somebody/secret-project/run --n 50",
                 adapters={"stage2": "stage2-0123abcd/adapter"})
    (out/"run.json").write_text(json.dumps(about))
    return out


# ---- What is packed -------------------------------------------------------------------------------------------------

def test_only_what_is_meant_is_packed_and_no_path_of_this_machine(run, tmp_path):
    packed = push.save(push.contents(run), tmp_path/"packed")
    assert {path.name for path in packed.rglob("*")} == FILES | {"scores.json"}
    texts = [(packed/name).read_text() for name in FILES | {"scores.json"} if name != "adapter_model.safetensors"]
    assert not any(word in text for text in texts for word in ("somebody", "secret-project", SECRET))


def test_the_card_says_what_the_run_measured_and_nothing_else(run):
    card = ModelCard(push.contents(run)["README.md"].decode())
    row = next(line for line in card.text.splitlines() if "this adapter" in line)
    assert "10.0 (6.0 to 15.0)" in row and "88.5 (87.1 to 89.9)" in row and "40.2 (39.0 to 41.5)" in row
    assert "| before | 74.2 (70.2 to 79.2)" in card.text and "| control: right answers only | 11.4" in card.text
    assert "CHAIR_s -64.2 points (-70.0 to -60.0)" in card.text
    assert "| steps | 7 |" in card.text
    assert "| pairs a step | 16 |" in card.text
    assert "| noise step | 450 |" in card.text
    assert "| seed | 3 |" in card.text
    allowed = json.dumps([json.loads((run/name).read_text())
                          for name in ("report.json", "run.json", "stage2-0123abcd/adapter/povid.json")])
    rates = {f"{100 * float(n):.1f}" for n in re.findall(r"\d\.\d+", allowed)}
    assert set(re.findall(r"\d+\.\d(?= [(t]|\))", row)) <= rates | {"40.2", "39.0", "41.5"}


def test_the_metadata_are_valid(run, tmp_path):
    data = ModelCard.load(push.save(push.contents(run), tmp_path/"packed")/"README.md").data
    assert data.library_name == "peft"
    assert data.pipeline_tag == "image-text-to-text"
    assert data.license == "apache-2.0"
    assert "povid" in data.tags
    assert {(e.metric_type, e.metric_value) for e in data.eval_results} == {("chair_s", .1), ("chair_i", .2),
        ("recall", .885), ("words", 40.25)}
    assert data.base_model is None                    # the built-in model is not on the hub


def test_what_was_packed_loads_again(run, tmp_path):
    packed = push.save(push.contents(run), tmp_path/"packed")
    scene = world.scenes("counter", "test", 40)[39]
    tuned = VLM.load("tiny", adapter=packed).describe(scene)
    assert tuned == VLM.load(adapter="stage2").describe(scene) != VLM.load().describe(scene)
    again = push.contents(packed)                     # from what was packed, once more
    assert again["adapter_config.json"] == (packed/"adapter_config.json").read_bytes()


@pytest.mark.parametrize("spoil, said", [
    (lambda f: (f/"povid.json").unlink(), "no record of its training"),
    (lambda f: (f/"adapter_model.safetensors").write_bytes(b"other"), "not as the training wrote it"),
    (lambda f: (f/"povid.json").write_text(json.dumps(record(f, over="f1rst"))), "stands on stage 1"),
    (lambda f: (f/"povid.json").write_text(json.dumps({k: v for k, v in record(f).items() if k != "steps"})),
     "is not finished")])
def test_an_adapter_that_nobody_can_vouch_for_is_refused(tmp_path, spoil, said):
    folder = adapter(tmp_path/"adapter")
    spoil(folder)
    with pytest.raises(ValueError, match=said): push.contents(folder)


def test_a_run_that_is_not_finished_is_one_line(tmp_path):
    for name in ("pairs", "stage1"):
        (tmp_path/name).mkdir()
        (tmp_path/name/"step.json").write_text("{}")
    with pytest.raises(ValueError,
                       match="the run in .* is not finished: call `povid run` with the same settings again"):
        push.contents(tmp_path)
    (tmp_path/"run.json").write_text("{}")
    with pytest.raises(ValueError, match="is not finished"): push.contents(tmp_path)


def test_a_base_from_a_folder_needs_its_name(tmp_path):
    folder = adapter(tmp_path/"adapter", base="/home/somebody/models/smol")
    with pytest.raises(ValueError, match="--base owner/name"): push.contents(folder)
    packed = push.save(push.contents(folder, base="me/smol"), tmp_path/"packed")
    assert json.loads((packed/"adapter_config.json").read_text())["base_model_name_or_path"] == "me/smol"
    assert not _damage(packed)
    card = ModelCard.load(packed/"README.md")
    assert card.data.base_model == "me/smol" and card.data.license is None and "Nothing was measured" in card.text


def test_pairs_go_as_text_if_they_are_those_of_the_training(tmp_path):
    inject.make_pairs(n=6, out=tmp_path/"pairs", progress=False)
    pairs = formats.as_pairs(formats.load(tmp_path/"pairs"/"pairs.jsonl"))
    folder = adapter(tmp_path/"adapter", pairs=pairs_digest(pairs))
    rows = [json.loads(line) for line in push.contents(folder, pairs=tmp_path/"pairs")["pairs.jsonl"].splitlines()]
    assert [(row["conversations"][1]["value"], row["rejected_conversations"][1]["value"])
            for row in rows] == [(p.chosen, p.rejected) for p in pairs]
    assert str(tmp_path) not in json.dumps(rows)
    with pytest.raises(ValueError, match="does not hold the pairs"):
        push.contents(adapter(tmp_path/"other"), pairs=tmp_path/"pairs")


def test_a_key_stops_the_packing(run):
    about = json.loads((run/"run.json").read_text())
    (run/"run.json").write_text(json.dumps(about | {"command": f"povid run --set hub_token={SECRET}"}))
    with pytest.raises(ValueError, match="looks like a key"): push.contents(run)


def test_scores_of_another_adapter_are_refused(tmp_path):
    folder = adapter(tmp_path/"adapter")
    vlm = VLM.load(adapter=folder)
    from povid_nb.answers import _model_of
    mine = _model_of(vlm)["adapter"]
    score = scored("chair", 9, chair_s=(.25, .1, .4), chair_i=(.2, .1, .3), recall=(.8, .7, .9), words=(12., 11, 13))
    for who, how in {"mine": {"adapter": mine}, "base": {}, "other": {"adapter": "0123456789ab"}}.items():
        (tmp_path/f"{who}.json").write_text(json.dumps(score | {"protocol": {"model": "tiny", **how}}))
    card = push.contents(folder, scores=[tmp_path/"mine.json", tmp_path/"base.json"])["README.md"].decode()
    assert "| **this adapter** | 25.0 (10.0 to 40.0)" in card
    assert "| before | 25.0 (10.0 to 40.0)" in card
    assert "was not measured" not in card
    assert "was not measured" in push.contents(folder, scores=[tmp_path/"mine.json"])["README.md"].decode()
    with pytest.raises(ValueError, match="another model or adapter"):
        push.contents(folder, scores=[tmp_path/"other.json"])
    with pytest.raises(ValueError, match="no scores of this adapter"):
        push.contents(folder, scores=[tmp_path/"base.json"])


# ---- The hub --------------------------------------------------------------------------------------------------------

class Hub(BaseHTTPRequestHandler):
    "As much of the hub as a commit and a download need; keeps what it was sent"
    def log_message(self, *args): pass

    def address(self): return f"http://127.0.0.1:{self.server.server_port}"

    def reply(self, value, status=200, headers={}):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items(): self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD": self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path, hub = self.path.partition("?")[0], self.server
        hub.asked.append((path, self.headers.get("Authorization")))
        if path == "/api/validate-yaml": return self.reply({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            made = json.loads(body)
            hub.private = made.get("visibility") == "private" or made.get("private") is True
            return self.reply({"url": f"{self.address()}/{made['organization']}/{made['name']}"})
        if "/preupload/" in path:
            return self.reply({"files": [dict(path=f["path"], uploadMode="regular", shouldIgnore=False)
                                         for f in json.loads(body)["files"]]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file": hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self.reply({"commitUrl": self.address() + "/me/adapter/commit/" + "c" * 40, "commitOid": "c" * 40,
                    "success": True})

    def do_GET(self):
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append((path, self.headers.get("Authorization")))
        if path.startswith("/api/models/"):
            if hub.private is None:
                return self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            if "/tree/" in path:
                return self.reply([dict(type="file", path=n, size=len(v), oid="0" * 40) for n, v in hub.files.items()])
            return self.reply(dict(id="me/adapter", private=hub.private, sha="c" * 40,
                                   siblings=[dict(rfilename=n) for n in hub.files]))
        name = path.rpartition(f"/resolve/{'c' * 40}/")[2]
        self.reply(hub.files[name], headers={"ETag": f'"{name}"', "X-Repo-Commit": "c" * 40})

    do_HEAD = do_GET


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.private, server.files, server.asked = None, {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def told(hub, tmp_path, *words, token=SECRET):
    "What `povid` prints with this hub, and its exit status"
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= dict(HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path/"hf"),
                HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    if token: env["HF_TOKEN"] = token
    done = subprocess.run([sys.executable, "-m", "povid_nb.cli", *map(str, words)], cwd=tmp_path, env=env,
                          capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr, done.returncode


def test_it_goes_to_a_private_repository_and_comes_back_by_name(run, hub, tmp_path):
    said, code = told(hub, tmp_path, "push", run, "--repo-id", "me/adapter")
    assert not code and f"sent: http://127.0.0.1:{hub.server_port}/me/adapter (private)" in said, said
    assert hub.private is True
    assert set(hub.files) == FILES | {"scores.json"}
    assert {key for _, key in hub.asked} == {f"Bearer {SECRET}"}
    assert hub.files["adapter_model.safetensors"] == (SHIPPED/"adapter_model.safetensors").read_bytes()
    assert b"adapter='me/adapter'" in hub.files["README.md"] and SECRET.encode() not in b"".join(hub.files.values())
    assert not (tmp_path/"runs").exists()
    photo = tmp_path/"table.png"
    scene = world.scenes("counter", "test", 40)[39]
    scene.image().save(photo)
    said, code = told(hub, tmp_path, "describe", photo, "--adapter", "me/adapter", "--json")
    assert not code, said
    (row,) = json.loads(said[:said.index("\n]") + 2])
    assert row["answer"] == VLM.load(adapter="stage2").describe(scene) != row["before"]


def test_public_is_said_aloud(run, hub, tmp_path):
    hub.private = False
    said, code = told(hub, tmp_path, "push", run, "--repo-id", "me/adapter")
    assert code == 1 and "is public" in said and "--public" in said and len(said.splitlines()) == 1 and not hub.files
    said, code = told(hub, tmp_path, "push", run, "--repo-id", "me/adapter", "--public")
    assert not code and "(public)" in said and hub.files


def test_a_dry_run_and_a_stranger_send_nothing(run, hub, tmp_path):
    said, code = told(hub, tmp_path, "push", run, "--repo-id", "me/adapter", "--dry-run", token=None)
    assert not code
    assert "would go to me/adapter (private)" in said
    assert all(name in said for name in FILES)
    assert "74.2 (70.2 to 79.2)" in said
    said, code = told(hub, tmp_path, "push", run, "--repo-id", "me/adapter", token=None)
    assert code == 1 and "hf auth login" in said and len(said.splitlines()) == 1
    assert not hub.asked and not (tmp_path/"runs").exists()


# ---- A Space --------------------------------------------------------------------------------------------------------

def test_a_space_describes_a_picture_before_and_after(run, tmp_path, monkeypatch):
    folder = push.save(push.space(push.contents(run)), tmp_path/"space")
    head = yaml.safe_load((folder/"README.md").read_text().split("---\n")[1])
    assert head["sdk"] == "gradio"
    assert re.fullmatch(r"\d+\.\d+\.\d+", head["sdk_version"])
    assert head["app_file"] == "app.py"
    assert head["license"] == "apache-2.0"
    wanted = (folder/"requirements.txt").read_text().split("\n")
    assert all(any(line.startswith(f"{name}==") for line in wanted) for name in ("torch", "transformers", "peft"))
    assert any("povid_nb @ git+" in line for line in wanted)
    app = (folder/"app.py").read_text()
    assert len([line for line in app.splitlines() if line.strip()]) <= 16 and "BASE" not in app
    made = {}
    stub = types.ModuleType("gradio")
    stub.Image = stub.Textbox = lambda **kwargs: kwargs
    stub.Interface = lambda fn, inputs, outputs, **kwargs: made.update(fn=fn, inputs=inputs, outputs=outputs, **kwargs)
    monkeypatch.setitem(sys.modules, "gradio", stub)
    runpy.run_path(str(folder/"app.py"))
    scene = world.scenes("counter", "test", 40)[39]
    assert made["fn"](scene.image(), "") == (VLM.load().describe(scene), VLM.load(adapter="stage2").describe(scene))
    assert made["fn"](scene.image(), "Is there a knife in the image?")[0] == VLM.load().describe(scene,
        "Is there a knife in the image?")
    assert len(made["inputs"]) == len(made["outputs"]) == 2 and made["examples"] == [[str(folder/"example.png"), ""]]
