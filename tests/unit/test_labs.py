"The labs: what their texts say is in their saved results, and their notebooks run as scripts"
import json, re, subprocess
from pathlib import Path
import pytest
from povid_nb import trials
from povid_nb.measure import RESULTS

LABS = Path(__file__).parents[2]/"nbs"/"labs"
NAMES = sorted(file.stem for file in LABS.glob("*.ipynb") if file.stem != "index")
UNSAVED = "With `rates = "                     # begins the one sentence about a run that is not saved


def cells(name):
    return [(cell["cell_type"], "".join(cell["source"]))
            for cell in json.loads((LABS/f"{name}.ipynb").read_text())["cells"]]


def numbers(value, name=""):
    "All numbers of a saved result as the texts write them: in percent or points, words as they are"
    if isinstance(value, dict): return set().union(*(numbers(v, k) for k, v in value.items()))
    if isinstance(value, list): return set().union(*(numbers(v, name) for v in value))
    return {f"{abs(value) * (1 if name == 'words' else 100):.1f}"} if isinstance(value, (int, float)) else set()


def found_in(text):
    text = "\n".join(line.split(UNSAVED)[0] for line in text.split("## The paper's figures")[0].splitlines())
    return re.findall(r"(?<![\d.])\d+\.\d(?![\d])", text)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_found_is_in_the_saved_result(name):
    saved = trials.Lab(name).saved()
    known = numbers({part: saved[part] for part in ("means", "differences", "each")})
    text = next(source for kind, source in cells(name) if kind == "markdown"
                and source.startswith("## What was found"))
    assert len(found_in(text)) > 10
    assert [number for number in found_in(text) if number not in known] == [], name


def test_a_wrong_number_would_be_noticed():
    assert found_in("38.0 and 2.7 points, 0.004, k = 500") == ["38.0", "2.7"]
    assert "38.0" in numbers({"chair_s": [.38, .3, .4]})
    assert "39.2" in numbers({"words": [39.24]})
    assert "1.0" not in numbers({"n": 3})


@pytest.mark.parametrize("name", NAMES)
def test_the_cells_of_a_lab_are_a_script(name):
    lab = trials.Lab(name, LABS)
    assert lab.notebook() == LABS/f"{name}.ipynb" and not lab.full and lab.folder.name == f"{name}-small"
    for kind, source in cells(name):
        if kind == "code": compile(trials._python(source), name, "exec")


def test_full_size_is_asked_for_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("POVID_FULL", "1")
    monkeypatch.setattr(trials.measure, "RESULTS", tmp_path)
    lab = trials.Lab("mine")
    with pytest.raises(FileNotFoundError, match="make it with: povid lab mine --full"): lab.saved()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(trials.__file__).parent, capture_output=True,
                          text=True)
    assert lab.pick(1, 2) == 1 and lab.save({"means": 3})["means"] == 3
    assert trials.Lab("mine").saved() == {"means": 3, "commit": head.stdout.strip() or None}
    monkeypatch.delenv("POVID_FULL")
    # small: nothing is saved
    assert trials.Lab("mine").pick(1, 2) == 2 and trials.Lab("mine").save({"means": 4})["means"] == 3


def test_run_executes_the_cells_at_full_size(tmp_path, monkeypatch):
    monkeypatch.setattr(trials.measure, "RESULTS", tmp_path/"results")
    code = "from povid_nb import trials\nlab = trials.Lab('mine')\nlab.save({'size': lab.pick('full', 'small')})"
    sources = [code, "%matplotlib inline", "#| exercise\nraise ValueError"]
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for i, source in enumerate(sources)]}
    (tmp_path/"mine.ipynb").write_text(json.dumps(notebook))
    trials.Lab("mine", tmp_path).run()
    assert trials.Lab("mine").saved()["size"] == "full" and not trials.Lab("mine").full


def test_the_results_have_what_the_labs_draw():
    assert {file.stem for file in RESULTS.glob("*.json")} >= set(NAMES)


def test_the_page_of_all_labs_has_a_row_for_each_and_what_it_says_is_in_their_results():
    text = "\n".join(source for kind, source in cells("index") if kind == "markdown")
    code = "\n".join(source for kind, source in cells("index") if kind == "code")
    for name in NAMES: assert f"({name}.ipynb)" in text and f'("{name}", ' in code, name
    table = text[text.index("| | paper | released code | here |"):].split("\n\n")[0].splitlines()[2:]
    assert len(table) >= 12 and all(re.search(r"\(\S+\.ipynb\)|all labs", row) for row in table)
    for name, finding in re.findall(r"\((\S+?)\.ipynb\), finding (\d)", text):
        found = next(source for kind, source in cells(name) if source.startswith("## What was found"))
        assert f"\n{finding}. " in found, (name, finding)
