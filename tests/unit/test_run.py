"The whole method's settings and command line: what is asked for is what is done, and mistakes are told in one line"
import json, re, shlex
from dataclasses import asdict
from pathlib import Path
import pytest
import yaml
from typer.testing import CliRunner
from povid_nb import formats, run, stages, world
from povid_nb.cli import _assigned, app
from povid_nb.vlm import VLM

SHELL = CliRunner()
CONFIGS = sorted((Path(run.__file__).parent/"configs").glob("*.yaml"))


def asked(monkeypatch, *words):
    "The Settings that the command line would run with"
    seen = {}
    monkeypatch.setattr(run, "run",
                        lambda out, fresh, **settings: seen.update(out=out, settings=run.Settings(**settings))
                        or "page")
    result = SHELL.invoke(app, ["run", *words])
    assert result.exit_code == 0, result.output
    return seen


def test_the_command_that_a_report_tells_repeats_its_run(monkeypatch, tmp_path):
    settings = run.Settings(answers="own", pairs=12, seed=3, prompt="What is there?",
                            train={"learning_rate": 1e-5, "cache": "reference",
                                   "stage2": {"noise_step": [300, 700], "noise_draw": "random"}})
    words = shlex.split(run._command(settings, "somewhere"))
    assert words[:2] == ["povid", "run"]
    assert asked(monkeypatch, *words[2:]) == {"out": Path("somewhere"), "settings": settings}


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_a_shipped_configuration_is_read_by_its_name(monkeypatch, file):
    given = yaml.safe_load(file.read_text())
    settings = asdict(asked(monkeypatch, "--config", file.stem, "--seed", "7")["settings"])
    assert settings["seed"] == 7
    assert {k: settings[k] for k in given if k != "set"} == {k: v for k, v in given.items() if k != "set"}
    assert settings["train"] == _assigned(given["set"])


@pytest.mark.parametrize("quantize", [[], ["--quantize", "4bit"]], ids=["whole", "4bit"])
@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.stem)
def test_every_part_of_a_shipped_configuration_can_be_trained(monkeypatch, tmp_path, file, quantize):
    "The control has no reference, so it must not be told to cache one; 4-bit weights take no adapter in"
    chosen = asked(monkeypatch, "--config", file.stem, *quantize)["settings"]
    vlm = VLM.load()
    for part, stage in (("sft", 1), ("stage1", 1), ("stage2", 2)):
        options = chosen.options(part)
        assert "between" not in options, "a 4-bit model takes the way that rounds nothing by itself"
        _, args = stages.stage_settings(vlm, stage, tmp_path, **options)
        assert args.form == {"sft": "sft", "stage1": "dpo", "stage2": "paper"}[part]
        common = None if part == "sft" else chosen.train.get("cache")
        assert args.cache == chosen.train.get(part, {}).get("cache", common)


def test_the_papers_settings():
    "PAPER: rank 128, alpha 256, rate 1e-7, batches of one, three epochs and one, k = 500"
    given = _assigned(yaml.safe_load(next(f for f in CONFIGS if f.stem == "llava-1.5-7b").read_text())["set"])
    assert given["rank"] == 128
    assert given["lora_alpha"] == 256
    assert given["learning_rate"] == 1e-7
    assert given["batch_size"] == 1
    assert given["stage1"]["num_train_epochs"] == 3 and given["stage2"] == {"num_train_epochs": 1, "noise_step": 500}


@pytest.mark.parametrize("words, told", [
    (["--config", "nowhere"], "demo, llava-1.5-7b, smolvlm-t4"),
    (["--set", "rank"], "expected name=value"),
    (["--set", "stage2.noise_step=5000"], "0 (nearly clean) to 999"),
    (["--set", "speed=3"], "unknown setting speed"),
    (["--pairs", "0"], "pairs is 0"),
    (["--images", "coco"], "there is no data"),
    (["--answers", "own", "--data", "pairs.json"], "data brings its own right answers"),
    (["--test-images", "coco"], "annotations"),
])
def test_mistakes_are_told_before_any_work(tmp_path, words, told):
    result = SHELL.invoke(app, ["run", "--out", str(tmp_path/"out"), *words])
    assert result.exit_code != 0
    assert told in " ".join(result.output.replace("│", " ").split()), result.output
    assert not (tmp_path/"out").exists()


def test_a_run_loads_one_model_and_switches_adapters(tmp_path, monkeypatch, capsys):
    loads, load = [], VLM.load
    monkeypatch.setattr(VLM, "load", classmethod(lambda cls, *args, **how: loads.append(args) or load(*args, **how)))
    small = dict(answers="own", pairs=4, n=2, train=dict(batch_size=4, max_steps=3, disable_tqdm=True))
    page = run.run(tmp_path, **small)
    assert len(loads) <= 2 and page.exists()
    said = capsys.readouterr()
    phases = re.findall(r"^(\d) of (\d): ", said.out, re.MULTILINE)
    assert phases == [(str(i), "6") for i in range(1, 7)] and not said.err.strip(), "quiet where there is no terminal"
    table = said.out[said.out.index("in percent"):]
    values = json.loads((tmp_path/"report.json").read_text())
    for who, label in (("base", "before"), ("sft", "control"), ("stage1", "stage 1"), ("stage2", "stage 2")):
        line = next(line for line in table.splitlines() if line.startswith(label))
        shown = re.findall(r"([\d.]+) \(", line)
        assert shown == [f"{100 * values[who][split]['chair'][key]:.1f}" for split in ("typical", "counter")
                         for key in ("chair_s", "recall")]
    base = (tmp_path/"said"/"base"/"counter"/"captions.jsonl").read_text()
    whole = run.Run(tmp_path, run.Settings(**small))
    adapted = whole.model(tmp_path/"stage2"/"adapter").next_tokens(world.scenes("counter", "test", 1)[0])
    clean = whole.model().next_tokens(world.scenes("counter", "test", 1)[0])
    fresh = load().next_tokens(world.scenes("counter", "test", 1)[0])
    assert [w.prob for w in clean] == [w.prob for w in fresh] != [w.prob
        for w in adapted], "the base comes back untouched"
    assert (tmp_path/"said"/"base"/"counter"/"captions.jsonl").read_text() == base


def test_a_figure_that_fails_does_not_take_the_report_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(run.Run, "drift", lambda *args: 1 / 0)
    page = run.run(tmp_path, answers="clean", pairs=4, n=2,
                   train=dict(batch_size=4, max_steps=1, disable_tqdm=True)).read_text()
    assert "This figure could not be made: division by zero" in page and "Where it looks" in page


def test_both_kinds_of_right_answers_share_the_untouched_model(tmp_path):
    "One folder each for what differs; the base is described once, and the page has a row of each"
    small = dict(pairs=6, n=2, train=dict(batch_size=6, max_steps=1, disable_tqdm=True))
    page = run.run(tmp_path, **small).read_text()
    made = {str(f.parent.relative_to(tmp_path)) for f in tmp_path.rglob("step.json")}
    each = {"pairs", "sft", "stage1", "stage2", "said/sft", "said/stage1", "said/stage2"}
    assert made == each | {f"clean/{name}" for name in each} | {"said/base", "shift", "attention"}
    own, clean = (formats.as_pairs(tmp_path/folder/"pairs.jsonl") for folder in ("pairs", "clean/pairs"))
    assert [p.prompt for p in own] == [p.prompt for p in clean]
    assert [p.chosen for p in own] != [p.chosen for p in clean]
    values = json.loads((tmp_path/"report.json").read_text())
    assert values["answers"] == "own"
    assert set(values["beside"]["clean"]) == {"base", "sft", "stage1", "stage2", "differences"}
    assert values["beside"]["clean"]["base"] == values["base"] and page.count(">control</td>") == 2
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("step.json")}
    run.run(tmp_path, **small | {"answers": "own"})
    assert before == {f: f.stat().st_mtime_ns for f in tmp_path.rglob("step.json")}, "all of it is found again"


def test_what_the_demonstration_found_is_in_its_saved_result():
    "As for the labs; and the saved settings are those of the configuration"
    from test_labs import found_in, numbers
    saved = json.loads((Path(run.__file__).parent/"results"/"paper-position.json").read_text())
    cells = json.loads((Path(__file__).parents[2]/"nbs"/"workshop"/"demo.ipynb").read_text())["cells"]
    text = next(t for t in ("".join(c["source"]) for c in cells) if t.startswith("## What was found"))
    known = numbers({part: saved[part] for part in ("means", "differences", "each")})
    assert len(found_in(text)) > 10 and [n for n in found_in(text) if n not in known] == []
    assert saved["settings"] == yaml.safe_load(next(f for f in CONFIGS if f.stem == "demo").read_text())
