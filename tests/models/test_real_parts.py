"The model of real parts: from the packages and the trained parts that are shipped to a description"
import importlib.util
import pytest
from typer.testing import CliRunner
from povid_nb import parts, realworld
from povid_nb.cli import app
from povid_nb.branches import Branches
from povid_nb.vlm import VLM

missing = [package for module, package in parts._NEEDS.items() if importlib.util.find_spec(module) is None]
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(bool(missing), reason=f"needs povid_nb[real]: {', '.join(missing)}"),
              pytest.mark.skipif(not realworld._STAMPS.exists(), reason="needs tuxpaint-stamps-default")]


@pytest.fixture(scope="module")
def real():
    return VLM.load("real", dtype="float32")


def test_it_names_most_of_what_is_there(real):
    scenes = realworld.scenes(realworld.stamps(), "typical", "validation", 8)
    said = real.describe(scenes, batch_size=8)
    named = [{m.kind for m in s.source.vocabulary.find(text)} for s, text in zip(scenes, said)]
    found = sum(len(n & s.objects) for n, s in zip(named, scenes)) / sum(len(s.objects) for s in scenes)
    assert found > .6, said


def test_its_answers_share_a_row(real):
    assert Branches(real).why_plain is None


def test_the_first_scene_is_seen_and_not_guessed(real):
    scene, grey = realworld.scenes(realworld.stamps(), "counter", "validation", 1)[0], lambda pixels: pixels * 0
    words = [t.kind for t in scene.things]
    begin = f"The picture shows a {scene.context}. There is a"
    seen, blind = (sum(w.prob for w in real.next_tokens(scene, prefix=begin, words=words, pixels=p))
                   for p in (None, grey))
    assert seen > 2 * blind


def test_one_command_trains_it_tests_it_and_writes_its_card(tmp_path):
    "Four scenes in two steps: a folder that loads and packs, and a card with what decides"
    command = ["pretrain", "--recipe", "real", "--steps", "2", "--scenes", "2", "--seed", "1", "--out",
               str(tmp_path/"real")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    card = (tmp_path/"real"/"README.md").read_text()
    assert "--recipe real --seed 1 --steps 2 " in card and "Tested on 2 scenes" in card and "{" not in card
    assert not Branches(VLM.load(tmp_path/"real", dtype="float32")).why_plain
    before = (tmp_path/"real"/"trained.safetensors").read_bytes()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (tmp_path/"real"/"trained.safetensors").read_bytes() == before
    other = CliRunner().invoke(app, [*command, "--steps", "3"])
    assert other.exit_code != 0
