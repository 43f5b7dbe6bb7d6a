"The viewer: each decision on the disk at once, and taken up again"
import json
from PIL import Image
from povid_nb.pairs import Example, Pair
from povid_nb.review import Viewer, reviewed


def three(folder):
    Image.new("RGB", (4, 4)).save(folder/"x.png")
    return [Pair(Example(str(folder/"x.png"), "What?", f"Right {i}.", "same id"), f"Wrong <b>{i}</b>.", "logic")
            for i in range(3)]


def test_viewer_writes_each_decision_at_once_and_resumes(tmp_path):
    out = tmp_path/"r.jsonl"
    first = Viewer(three(tmp_path), out)
    assert "<b>0" not in first.card.value and "&lt;" in first.card.value             # text is text, not HTML
    first.buttons.children[0].click()
    assert len(out.read_text().splitlines()) == 1
    again = Viewer(three(tmp_path), out)
    assert len(again.pairs) == 2 and "1 accepted" in again.tally.value
    # nothing was changed: nothing to save
    again.buttons.children[1].click()
    assert len(again.pairs) == 2 and "Nothing to save" in again.tally.value
    again.text.value = "Better lie."
    again.buttons.children[1].click()
    again.buttons.children[2].click()
    assert all(b.disabled for b in again.buttons.children) and not Viewer(three(tmp_path), out).pairs
    kept = reviewed(out)
    assert [p.rejected for p in kept] == ["Wrong <b>0</b>.", "Better lie."] and kept[1].source == "edit"
    assert [json.loads(l)["review"] for l in open(out)] == ["accepted", "edited", "rejected"]


def test_a_torn_line_of_a_review_costs_one_decision(tmp_path):
    out = tmp_path/"r.jsonl"
    first = Viewer(three(tmp_path), out)
    first.buttons.children[0].click()
    with open(out, "a") as file: file.write('{"id": "same id", "key": "ab')
    again = Viewer(three(tmp_path), out)
    assert len(again.pairs) == 2
    again.buttons.children[2].click()
    assert len(Viewer(three(tmp_path), out).pairs) == 1


def test_the_place_of_the_decisions_is_shown_as_text(tmp_path):
    assert "<b>x</b>" not in Viewer([], tmp_path/"<b>x<").card.value
