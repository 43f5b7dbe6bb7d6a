"""Every notebook, read as a reader's machine will read it. The checks are functions, tried first on notebooks that
are wrong."""
import ast, json, re
from pathlib import Path
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from typer.testing import CliRunner
from povid_nb.cli import app
from tools import links

ROOT = Path(__file__).parents[2]
CFG = links.settings()
WIDGETS = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"


def text(value):
    return "".join(value) if isinstance(value, list) else value


def code(nb):
    return [cell for cell in nb["cells"] if cell["cell_type"] == "code"]


def outputs(nb):
    return [(cell, output) for cell in code(nb) for output in cell["outputs"]]


def is_alt(cell):
    return bool(re.search(r"^#\| *fig-alt: *\S", links.source(cell), re.M))


def is_lesson(path):
    "Lessons, labs and workshop, as against pages of words alone"
    return path not in {f"{name}.ipynb" for name in ("index", "howto", "glossary", "reference", "changelog", "404")}


# ---- The checks: each yields what is wrong --------------------------------------------------------------------------

def parses(nb, path):
    for cell in code(nb):
        plain = TransformerManager().transform_cell(links.source(cell))
        try: compile(plain, path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        except SyntaxError as error: yield f"a cell does not parse ({error.msg}): {links.source(cell)[:80]!r}"


def has_a_head(nb, path):
    "nbdev makes the page's title of the first cell, and drops what else is in it"
    first = links.source(nb["cells"][0])
    if not re.fullmatch(r"# .+\n\n?> .+\n?", first):
        yield f"the first cell should be '# Title' and '> subtitle' and no more, it is {first[:200]!r}"


def has_its_badge(nb, path):
    if not is_lesson(path): return
    badges = re.findall(r"\[!\[Open in Colab\].*?\)\]\(.*?\)", "\n".join(map(links.source, nb["cells"][:3])))
    if badges != [links.badge(path, CFG)]: yield f"the badge should be {links.badge(path, CFG)}, there is {badges}"


def has_the_setup_cell(nb, path):
    if not is_lesson(path): return
    cells = [links.source(cell) for cell in code(nb)]
    setups = [index for index, cell in enumerate(code(nb)) if links.is_setup(cell)]
    if len(setups) != 1: yield f"there should be one set-up cell, there are {len(setups)}"; return
    if cells[setups[0]] != links.setup_cell(CFG):
        yield "the set-up cell differs from the one in tools/links.py (`make links` writes it)"
    if any("povid_nb" in cell for cell in cells[:setups[0]]): yield "povid_nb is used before the set-up cell"


def is_small(nb, path):
    size = len(json.dumps(nb))
    if size > 1_000_000: yield f"{size:,} bytes; a notebook should stay below 1,000,000"


def pictures_have_words(nb, path):
    for cell, output in outputs(nb):
        kinds = output.get("data", {})
        if any(kind.startswith("image/") for kind in kinds) and not is_alt(cell):
            yield f"a picture without '#| fig-alt:' in the cell {links.source(cell)[:80]!r}"
        for tag in re.findall(r"<img\b[^>]*>", text(kinds.get("text/html", ""))):
            if not re.search(r"""\balt=["'][^"']+""", tag): yield f"an <img> without alt text: {tag[:80]}"
    for cell in nb["cells"]:
        if cell["cell_type"] != "markdown": continue
        for target in re.findall(r"!\[\s*\]\((.*?)\)", links.source(cell)): yield f"a picture without words: {target}"


def words_have_pictures(nb, path):
    "A figure that a later save has lost leaves its alt text behind"
    for cell in code(nb):
        kinds = [kind for output in cell["outputs"] for kind in output.get("data", {})]
        shown = any(kind.startswith("image/") or kind in ("text/html", VIEW) for kind in kinds)
        if is_alt(cell) and not shown: yield f"alt text without a figure below the cell {links.source(cell)[:80]!r}"


def drawings_have_words(nb, path):
    "Widgets, live or as a page"
    for cell, output in outputs(nb):
        data = output.get("data", {})
        drawn = VIEW in data or re.search(r"<(script|svg|canvas)\b", text(data.get("text/html", "")))
        hidden = re.search(r"^#\| *output: *false", links.source(cell), re.M)
        if drawn and not hidden and not is_alt(cell):
            yield f"a widget without '#| fig-alt:' in the cell {links.source(cell)[:80]!r}"


def what_is_described_is_there(nb, path):
    "Above each 'What you should see' and below the heading or the one before it, some cell shows something"
    there = False
    for cell in nb["cells"]:
        if cell["cell_type"] == "code": there = there or bool(cell["outputs"])
        for part in re.findall(r"^#+ .+|What you should see", links.source(cell),
                               re.M) if cell["cell_type"] == "markdown" else []:
            if not part.startswith("#") and not there: yield f"no output above {links.source(cell)[:80]!r}"
            there = False


def has_no_errors(nb, path):
    for cell, output in outputs(nb):
        if output["output_type"] == "error": yield f"a saved error: {output['ename']}: {output['evalue'][:80]}"


def text_comes_in_one_piece(nb, path):
    "A page frames each piece, and an empty frame says nothing"
    for cell in code(nb):
        names = [output.get("name") for output in cell["outputs"]]
        if any(one and one == other for one, other in zip(names, names[1:])):
            yield f"text in pieces below the cell {links.source(cell)[:80]!r}: save its outputs again"


def widgets_have_state(nb, path):
    saved = nb["metadata"].get("widgets", {})
    if saved and "state" not in saved.get(WIDGETS, {}):
        yield "widget metadata without `state`; GitHub cannot show this notebook"
    models = saved.get(WIDGETS, {}).get("state", {})
    for _, output in outputs(nb):
        view = output.get("data", {}).get(VIEW)
        if view and view["model_id"] not in models: yield f"a widget whose state was not saved: {view['model_id']}"


def solutions_are_folded(nb, path):
    "In JupyterLab, on Colab and, by the directive, on the site"
    for cell in nb["cells"]:
        if "#@title Solution" not in links.source(cell): continue
        data = cell.get("metadata", {})
        folded = data.get("cellView") == "form" and data.get("jupyter", {}).get("source_hidden")
        if not (folded and "#| code-fold: true" in links.source(cell)):
            yield f"an open solution: {links.source(cell)[-60:]!r}"


def names_no_machine(nb, path):
    for _, output in outputs(nb):
        shown = text(output.get("text", "")) + text(output.get("data", {}).get("text/plain", ""))
        for found in re.findall(rf"{re.escape(str(ROOT))}\S*|(?<![\w.])/(?:home|root|Users)/\S+", shown):
            yield f"an output shows a path of the author's machine: {found}"


CHECKS = [parses, has_a_head, has_its_badge, has_the_setup_cell, is_small, pictures_have_words, words_have_pictures,
          drawings_have_words, what_is_described_is_there, has_no_errors, widgets_have_state,
          text_comes_in_one_piece, solutions_are_folded, names_no_machine]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("file", links.notebooks(), ids=lambda file: file.stem)
def test_notebook(file, check):
    nb, path = json.loads(file.read_text(encoding="utf-8")), str(file.relative_to(ROOT/"nbs"))
    problems = list(check(nb, path))
    if problems: pytest.fail("\n".join([f"nbs/{path}:", *problems]), pytrace=False)


def test_the_figures_shown_are_those_of_the_shipped_model():
    "After a new training, `make outputs` must follow"
    card = (ROOT/"povid_nb"/"tiny"/"README.md").read_text().partition("## Measured behaviour")[2]
    pretrain = json.loads((ROOT/"nbs"/"workshop"/"pretrain.ipynb").read_text(encoding="utf-8"))
    assert card.strip() in [text(output["data"].get("text/markdown", "")).strip() for _, output in outputs(pretrain)
                            if "data" in output]


def test_the_help_shown_is_that_of_the_commands():
    cli = json.loads((ROOT/"nbs"/"workshop"/"cli.ipynb").read_text(encoding="utf-8"))
    shown = [text(output.get("text", "")).strip() for _, output in outputs(cli)]
    for words in (["--help"], ["run", "--help"]):
        assert CliRunner(env={"COLUMNS": "80"}).invoke(app, words, prog_name="povid").output.strip() in shown


# ---- A sound notebook passes every check, and each way to spoil it is found -----------------------------------------

def a_cell(source, outputs=None):
    if outputs is None: return {"cell_type": "markdown", "source": source}
    return {"cell_type": "code", "source": source, "outputs": outputs}


def a_picture(kind="image/png", data="abcd"):
    return {"output_type": "display_data", "data": {kind: data}}


def sound():
    return {"metadata": {"widgets": {WIDGETS: {"state": {"m1": {}}}}}, "cells": [
        a_cell("# A title\n\n> A subtitle"),
        a_cell(links.badge("03_noise.ipynb", CFG)),
        a_cell(links.setup_cell(CFG), []),
        a_cell("from povid_nb import noise\n%time x = 1\nawait f()", []),
        a_cell('#| fig-alt: "Two lines"\nplot()', [a_picture(), a_picture("text/html", '<img src="x" alt="A line">')]),
        a_cell("**What you should see.** Two lines"),
        a_cell('#| fig-alt: "A slider"\nwidget', [a_picture(VIEW, {"model_id": "m1"})]),
        a_cell("![A cat](cat.png)"),
        a_cell("#| code-fold: true\n#@title Solution\nx = 1", [])
        | {"metadata": {"cellView": "form", "jupyter": {"source_hidden": True}}}]}


def spoil(nb, what):
    cells = nb["cells"]
    if what == "parses": cells[3]["source"] = "try: import x\nexcept ImportError: pass\nelse: %pip install x"
    if what == "has_a_head": cells[0]["source"] += "\n\nLost on the site"
    if what == "has_its_badge": cells[1]["source"] = cells[1]["source"].replace("03_noise", "05_shift")
    if what == "has_the_setup_cell": cells[2]["source"] += "  # on Colab"
    if what == "is_small": cells[4]["outputs"][0]["data"]["image/png"] = "a" * 1_000_000
    if what == "pictures_have_words": cells[4]["source"] = "plot()"
    if what == "words_have_pictures": cells[4]["outputs"] = []
    if what == "drawings_have_words": cells[6]["source"] = "widget"
    if what == "what_is_described_is_there": cells[4]["outputs"] = []
    if what == "has_no_errors": cells[3]["outputs"] = [{"output_type": "error", "ename": "ValueError", "evalue": "no"}]
    if what == "text_comes_in_one_piece":
        cells[3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [piece]} for piece in ("one", "\n")]
    if what == "widgets_have_state": nb["metadata"]["widgets"] = {WIDGETS: {}}
    if what == "solutions_are_folded": del cells[-1]["metadata"]
    if what == "names_no_machine":
        cells[3]["outputs"] = [{"output_type": "stream", "text": ["saved in /home/ada/runs\n"]}]
    return nb


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_check_passes_a_sound_notebook_and_finds_a_spoilt_one(check):
    assert not list(check(sound(), "03_noise.ipynb"))
    assert len(list(check(spoil(sound(), check.__name__), "03_noise.ipynb"))) >= 1


def test_more_ways_to_spoil_a_notebook():
    nb = sound()
    nb["cells"][0]["source"] = "# A title\n\nA subtitle"
    assert len(list(has_a_head(nb, "03_noise.ipynb"))) == 1
    nb = sound()
    nb["cells"][7]["source"] = "![](cat.png)"
    nb["cells"][4]["outputs"][1] = a_picture("text/html", '<img src="x">')
    assert len(list(pictures_have_words(nb, "03_noise.ipynb"))) == 2
    nb = sound()
    nb["cells"][6]["outputs"][0]["data"][VIEW]["model_id"] = "m2"
    assert len(list(widgets_have_state(nb, "03_noise.ipynb"))) == 1
    nb = sound()
    nb["cells"][6] = a_cell("HTML(page)", [a_picture("text/html", "<div></div><script>draw()</script>")])
    assert len(list(drawings_have_words(nb, "03_noise.ipynb"))) == 1
    nb = sound()
    nb["cells"].insert(5, a_cell("**What you should see.** A heading and no output in between:\n\n## Next"))
    assert len(list(what_is_described_is_there(nb, "03_noise.ipynb"))) == 1
    nb = sound()
    nb["cells"][2], nb["cells"][3] = nb["cells"][3], nb["cells"][2]
    assert list(has_the_setup_cell(nb, "03_noise.ipynb")) == ["povid_nb is used before the set-up cell"]
