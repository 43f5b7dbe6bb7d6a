"""What an attack on the library found and no other test holds: answers of another model, texts without a word, a
disk that is full"""
import errno, json, os, re, signal, time
from pathlib import Path
import pytest
import typer
from typer.testing import CliRunner
from povid_nb import push, shell, shift, world
from povid_nb.cli import app
from povid_nb.explorer import Explorer
from povid_nb.looker import Looker
from povid_nb.vlm import VLM

pytestmark = pytest.mark.attack


TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def vlm(): return VLM.load(adapter="stage2")


def test_answers_of_the_base_are_never_taken_for_those_of_an_adapter(tmp_path):
    "One folder, the base and then an adapter: refused in a line, and the base's answers stay as they are"
    povid = lambda *words: CliRunner().invoke(app,
                                              ["eval", "--limit", "2", "--max-new-tokens", "30", "--out",
                                               str(tmp_path/"out"), *words])
    assert povid().exit_code == 0
    kept = {file: file.read_bytes() for file in (tmp_path/"out").rglob("*.jsonl")}
    other = povid("--adapter", "stage2")
    assert other.exit_code == 1
    assert "holds answers made with adapter = None, now " in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1
    assert {file: file.read_bytes() for file in (tmp_path/"out").rglob("*.jsonl")} == kept
    fewer = CliRunner().invoke(app,
                               ["eval", "--limit", "1", "--max-new-tokens", "30", "--out", str(tmp_path/"out"),
                                "--json"])
    assert {score["protocol"]["limit"] for score in json.loads(fewer.stdout).values()} == {1}
    assert all(score["n"] == 1 for score in json.loads(fewer.stdout).values())


@pytest.mark.parametrize("answer", ["...", "\U0001f408\u200d\u2b1b \U0001f408", "?!", "cost $5 and $\\frac"])
def test_an_answer_without_a_word_is_shown_or_refused_in_a_line(vlm, answer):
    scene = world.scenes("counter", "test", 1)[0]
    try: looker = Looker(vlm, [scene], answers=[answer])
    except ValueError as error: assert "\n" not in str(error) and "word" in str(error)
    else: assert looker.html()
    looker = Looker(vlm, [scene], answers=["A red cup."])
    looker.answer = answer                                       # typed in: a message, and the page stays
    assert looker.key == f"0|{answer}" or looker.message


def test_the_pictures_own_token_cannot_begin_an_answer(vlm):
    scene = world.scenes("counter", "test", 1)[0]
    for call in (lambda: shift.sweep(vlm, scene, prefix="A <image>", steps=[0]),
                 lambda: vlm.next_tokens(scene, prefix="<image>"),
                 lambda: shift.sweep(vlm, scene, words=["<image>"], steps=[0])):
        with pytest.raises(ValueError, match="'<image>', which stands for the picture"): call()


def test_an_uploaded_text_is_refused_in_a_message(vlm):
    explorer = Explorer(vlm, [world.scenes("counter", "test", 1)[0]], steps=[0, 500], k=2)
    explorer.upload = {"name": "<b>x</b>", "data": "data:image/png;base64,PHN2Zz4="}
    assert "is not an image" in explorer.message and len(explorer.images) == 1


@pytest.mark.parametrize("error, says", [
    (OSError(errno.ENOSPC, "No space left on device", "a/b.json"),
     "the disk is full ([Errno 28] No space left on device: 'a/b.json'); free some space"),
    (RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0: file "
                  "write failed"), "the disk is full ("),
    (FileExistsError(errno.EEXIST, "File exists", "a/b.png"),
     "a/b.png is a file or lies under one; a folder is expected"),
    (OSError(errno.EACCES, "Permission denied", "a"), "[Errno 13] Permission denied: 'a'"),
    (KeyError("a\nb"), "unexpected KeyError (POVID_DEBUG=1 shows where): 'a\\nb'")])
def test_an_error_is_one_line_and_a_full_disk_is_named(error, says):
    line = shell._line(error)
    assert line.startswith(says) and "\n" not in line


@pytest.mark.parametrize("words",
                         ["plan --data 0", "plan --data -1", "serve --port 99999", "serve --port -1",
                          "describe a.png --max-new-tokens 0"])
def test_numbers_out_of_range_are_refused_before_any_work(words):
    done = CliRunner().invoke(app, words.split())
    assert (done.exit_code == 2
            and len([line for line in done.stderr.splitlines() if line.startswith("Error: Invalid value")])
            == 1), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_compiled_code_makes_another_error_of_is_still_a_stop(number):
    def work():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt: raise RuntimeError("could not determine the shape of object type") from None
    alone, before = typer.Typer(), {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    shell._verb(alone, {}, work)
    try: done = CliRunner().invoke(alone, [])
    finally:
        for n, handler in before.items(): signal.signal(n, handler)
    assert done.exit_code == 130 and done.stderr.splitlines() == ["stopped; the same command goes on from here"]


def test_what_cannot_be_packed_is_named_in_a_line(tmp_path):
    (tmp_path/"adapter_config.json").write_text("{}")
    (tmp_path/"povid.json").write_text("[]")
    (tmp_path/"scores.png").write_bytes(b"\x89PNG")
    for call, says in ((lambda: push.contents(tmp_path), "povid.json is damaged: it does not hold a JSON object"),
                       (lambda: push.contents(tmp_path, where="../../x"), "'../../x' is no name on the hub"),
                       (lambda: push._evaluated([tmp_path/"scores.png"], "tiny", "0"),
                        "scores.png is damaged: it does not hold a JSON object")):
        with pytest.raises(ValueError, match=re.escape(says)) as error: call()
        assert "\n" not in str(error.value)


def test_the_list_of_promises_names_tests_that_exist():
    text = (TESTS/"ATTACKS.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert len(named) > 40
    assert not [f"{file}::{name}" for file, name in named if f"def {name}(" not in (TESTS/file).read_text()]
    assert "TABLE" not in text
