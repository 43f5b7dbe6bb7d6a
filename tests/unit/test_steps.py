"Steps: done once, resumed, never deleted, damage noticed"
import json
import pytest
from povid_nb.steps import Steps, set_aside

pytestmark = pytest.mark.attack


class Work:
    "Counts how often it is done; writes one result and, before it, one checkpoint"
    def __init__(self): self.times = 0
    def __call__(self, folder):
        self.times += 1
        (folder/"checkpoint-1").mkdir(exist_ok=True)
        (folder/"checkpoint-1"/"state").write_text("passing")
        (folder/"deep").mkdir(exist_ok=True)
        (folder/"deep"/"result").write_text("kept")


def test_a_finished_step_is_found_again(tmp_path):
    work = Work()
    for _ in range(3): folder = Steps(tmp_path)("a", work, {"k": 1})
    assert work.times == 1 and (folder/"deep"/"result").read_text() == "kept"
    assert json.loads((folder/"step.json").read_text())["files"].keys() == {"deep/result"}


@pytest.mark.parametrize("damage", [lambda f: f.unlink(), lambda f: f.write_text("kepT"), lambda f: f.write_text("")],
                         ids=["missing", "one letter", "empty"])
def test_damage_is_noticed_and_the_step_done_again(tmp_path, capsys, damage):
    work = Work()
    folder = Steps(tmp_path)("a", work, {})
    damage(folder/"deep"/"result")
    again = Steps(tmp_path)("a", work, {})
    assert work.times == 2 and (again/"deep"/"result").read_text() == "kept"
    assert (tmp_path/"a.damaged-1").is_dir() and "deep/result" in capsys.readouterr().out


def test_checkpoints_may_go(tmp_path):
    work = Work()
    folder = Steps(tmp_path)("a", work, {})
    (folder/"checkpoint-1"/"state").unlink()
    Steps(tmp_path)("a", work, {})
    assert work.times == 1


@pytest.mark.parametrize("torn", ["", "{", "[]"], ids=["empty", "torn", "another thing"])
def test_a_torn_record_is_redone_and_what_was_there_is_kept(tmp_path, torn):
    work = Work()
    folder = Steps(tmp_path)("a", work, {})
    (folder/"step.json").write_text(torn)
    Steps(tmp_path)("a", work, {})
    assert work.times == 2 and len([f for f in tmp_path.rglob("result")]) == 2


def test_a_changed_setting_keeps_both_results_and_touches_what_stands_on_it(tmp_path):
    works = {name: Work() for name in "abc"}
    def all_three(k):
        steps = Steps(tmp_path)
        steps("a", works["a"], {"k": k})
        steps("b", works["b"], {}, after=["a"])
        steps("c", works["c"], {})
        return steps
    first, second, third = all_three(1), all_three(2), all_three(1)
    assert [w.times for w in works.values()] == [2, 2, 1]
    assert first.folders == third.folders and first.folders["b"] != second.folders["b"]
    assert all(folder.is_dir() for steps in (first, second) for folder in steps.folders.values())


def test_fresh_sets_aside_and_deletes_nothing(tmp_path):
    work = Work()
    Steps(tmp_path/"run")("a", work, {})
    Steps(tmp_path/"run", fresh=True)("a", work, {})
    assert work.times == 2 and (tmp_path/"run.old-1"/"a"/"deep"/"result").exists()


def test_a_folder_of_the_users_is_never_taken_for_a_step(tmp_path):
    (tmp_path/"a").mkdir()
    (tmp_path/"a"/"mine").write_text("mine")
    Steps(tmp_path)("a", Work(), {})
    assert (tmp_path/"a.old-1"/"mine").read_text() == "mine"


def test_names_are_free(tmp_path):
    for text in "12":
        (tmp_path/"f").write_text(text)
        set_aside(tmp_path/"f")
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"f.old-1": "1", "f.old-2": "2"}
