"What a user of the command line meets: examples that work, photos described, the drawn world scored, pages served"
import dataclasses, json, os, re, shlex, subprocess, sys, urllib.request
import pytest, typer
from typer.testing import CliRunner
from povid_nb import serve, world
from povid_nb.cli import _EXAMPLES, app
from povid_nb.demo import _command
from povid_nb.vlm import VLM

SHELL = CliRunner(env={"COLUMNS": "200"})
GROUP = typer.main.get_command(app)


def called(*words):
    done = SHELL.invoke(app, [str(word) for word in words], prog_name="povid")
    assert not done.exit_code, done.output
    return done.output


def commands(group=GROUP, before=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"): yield from commands(command, (*before, name))
        else: yield (*before, name), command


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_every_help_has_examples_that_the_command_understands(words):
    command = dict(commands())[words]
    shown = re.findall(r"^ +povid (.*)$", called(*words, "--help").partition("Examples:")[2], re.MULTILINE)
    assert shown
    for example in shown:
        parts = shlex.split(example)
        assert tuple(parts[:len(words)]) == words
        command.make_context(words[-1], parts[len(words):])          # reads and converts every option, runs nothing


def test_the_examples_are_of_commands():
    assert set(_EXAMPLES) == {words[-1] for words, _ in commands()}


def test_a_photo_is_described(tmp_path):
    scene = world.scenes("counter", "test", 40)[39]
    photo = tmp_path/"table.png"
    scene.image().save(photo)
    (row,) = json.loads(called("describe", photo, "--adapter", "stage2", "--json"))
    assert row == {"photo": str(photo), "model": "tiny", "before": VLM.load().describe(scene),
                   "answer": VLM.load(adapter="stage2").describe(scene)}
    said = called("describe", photo, "--question", "Is there a knife in the image?")
    assert f"answer: {VLM.load().describe(scene, 'Is there a knife in the image?')}" in said
    wrong = SHELL.invoke(app, ["describe", str(tmp_path/"nothing.png")], prog_name="povid")
    assert wrong.exit_code == 1 and wrong.output.startswith("error: ") and len(wrong.output.splitlines()) == 1


def test_eval_with_nothing_given_scores_the_drawn_world(tmp_path):
    found = json.loads(called("eval", "--limit", 4, "--json", "--out", tmp_path))
    scenes = world.scenes("counter", "test", 4)
    texts = VLM.load().describe(scenes)
    wrong = [any(re.search(rf"\b{kind}\b", text) for kind in set(world.KINDS) - scene.objects)
             for scene, text in zip(scenes, texts)]
    assert found["chair"]["n"] == 4 and found["chair"]["chair_s"] == sum(wrong) / 4


def test_serving_names_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "_LIVE", tmp_path/"live")
    refused = SHELL.invoke(app, ["serve", "--no-browser"], prog_name="povid")
    assert refused.exit_code == 1 and "make live" in refused.output
    for name in ("live/live.html", "run/report.html"):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_text(name)
    server, addresses = serve._addresses(tmp_path/"run", 0)
    assert {name: urllib.request.urlopen(address).read().decode()
            for name, address in addresses.items()} == {"live": "live/live.html", "report": "run/report.html"}
    server.shutdown()


def test_the_demonstration_is_a_run_that_the_command_understands():
    words = _command(["--pairs", "40"])
    context = dict(commands())[("run",)].make_context("run", words[1:])
    assert context.params["answers"] == "both" and "learning_rate=2e-3" in context.params["set"]
    assert context.params["pairs"] == 40 and str(context.params["out"]) == "runs/demo"


def test_completion_knows_verbs_options_and_choices():
    "What a shell with `povid --install-completion` asks; also where the command is `python -m povid_nb.cli`"
    def offered(line, *more):
        words = line.split() + list(more)
        asked = {"_POVID_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run([sys.executable, "-m", "povid_nb.cli"], env=os.environ | asked, capture_output=True,
                              text=True, timeout=60)
        return done.stdout.split()
    assert offered("povid pus") == ["push"]
    assert offered("povid train --stage b") == ["both"]
    assert offered("povid share --sp") == ["--space"]


def test_a_plan_can_be_read_by_a_program(monkeypatch):
    @dataclasses.dataclass
    class Plan: fits: bool; hours: float
    monkeypatch.setattr("povid_nb.plan.plan", lambda model, gpu, data: Plan(gpu == "t4", data / 10))
    assert json.loads(called("plan", "--gpu", "t4", "--data", "15", "--json")) == {"fits": True, "hours": 1.5}
