"The reference page's twelve names: each snippet runs, as it stands there"
from tools import reference
from tools.floors import LIBRARY, public


def test_the_twelve_snippets_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for name, room, _, code in reference.TWELVE: exec(compile(code, name, "exec"), names)
    assert "knife" in names["text"] and names["found"].chair_s == 1 and names["curves"].probs.shape[0] == 3
    assert (tmp_path/"runs"/"few"/"adapter").is_dir() and names["tallies"]["chair"].n == 2


def test_the_twelve_are_public():
    assert len(reference.TWELVE) == 12
    for name, room, _, code in reference.TWELVE: assert name.partition(".")[0] in public(LIBRARY/f"{room}.py") and name.split(".")[-1] in code
