"The house itself: floors, light imports, one setting for everything that is said more than once"
import json, ast, graphlib, re, subprocess, sys, tomllib
from pathlib import Path
import pytest, yaml
from tools import links
from tools.floors import FLOORS

ROOT = Path(__file__).parents[2]
MODULES = sorted(file for file in (ROOT/"povid_nb").glob("*.py") if file.stem[0] != "_")
CFG = links.settings()


def imports(code):
    "The full names of all that a piece of code imports, at its top or inside functions"
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import): yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = "povid_nb" * bool(node.level) + "." * bool(node.level and node.module) + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def housemates(code):
    "The modules of povid_nb among them"
    return {name.split(".")[1] for name in imports(code) if name.startswith("povid_nb.")
            and name.split(".")[1] in FLOORS}


def run(*command, **kwargs):
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120, **kwargs)


# ---- Floors ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("code",
                         ["from povid_nb import vlm", "from povid_nb.vlm import VLM", "import povid_nb.vlm as v",
                                  "from . import vlm", "from .vlm import VLM",
                          "def f():\n    from povid_nb import vlm"])
def test_an_import_is_found_however_it_is_written(code):
    assert housemates(code) == {"vlm"}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_imports_run_downwards_only(file):
    assert file.stem in FLOORS, f"give {file.stem} a floor in tools/floors.py"
    above = {name for name in housemates(file.read_text()) if FLOORS[name] > FLOORS[file.stem]}
    assert not above, f"{file.stem} (floor {FLOORS[file.stem]}) imports from a floor above: {above}"


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_the_library_imports_no_notebook_tools(file):
    tops = {name.split(".")[0] for name in imports(file.read_text())}
    assert not tops & {"nbdev", "fastcore", "execnb", "pytest", "jupytext"}


def test_no_two_modules_import_each_other():
    "Also on one floor, and also where an import stands inside a function"
    graphlib.TopologicalSorter({file.stem: housemates(file.read_text()) - {file.stem} for file in MODULES}).prepare()


# ---- Light imports --------------------------------------------------------------------------------------------------

HEAVY = ("import sys; heavy = {'torch', 'transformers', 'matplotlib', 'datasets', 'pandas'} & set(sys.modules); "
         "assert not heavy, heavy")


def test_the_package_imports_nothing_heavy():
    done = run("-c", f"import povid_nb; {HEAVY}")
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy():
    program = f"from povid_nb.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass\n{HEAVY}"
    done = run("-c", program)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_module_is_a_program():
    assert "Usage" in run("-m", "povid_nb.cli", "--help").stdout


# ---- Said once ------------------------------------------------------------------------------------------------------

def test_pyproject_says_what_settings_say():
    toml = tomllib.loads((ROOT/"pyproject.toml").read_text())
    project, nbdev = toml["project"], toml["tool"]["nbdev"]
    assert project["name"] == CFG["lib_name"]
    assert project["requires-python"] == f">={CFG['min_python']}"
    assert project["urls"] == {"Repository": CFG["git_url"], "Homepage": CFG["doc_host"] + CFG["doc_baseurl"]}
    for key, value in nbdev.items(): assert str(value) == CFG[key], key


def test_the_version_is_one():
    version = CFG["version"]
    assert f'__version__ = "{version}"' in (ROOT/"povid_nb"/"__init__.py").read_text()
    assert yaml.safe_load((ROOT/"CITATION.cff").read_text())["version"] == version
    assert f"## {version}" in (ROOT/"CHANGELOG.md").read_text()


def test_nothing_is_out_of_step():
    stale = [str(file.relative_to(ROOT)) for file in links.stale()]
    assert not stale, f"run `make links` and commit: {stale}"


@pytest.mark.parametrize("link", [
    "https://github.com/{}/povid_nb", "git+https://github.com/{}/povid_nb", "https://{}.github.io/povid_nb/world.html",
    "https://raw.githubusercontent.com/{}/povid_nb/main/x.png",
    "https://colab.research.google.com/github/{}/povid_nb/blob/main/nbs/a.ipynb"])
def test_links_follow_the_setting(link):
    cfg = {"user": "new-owner", "repo": "povid_nb", "branch": "main",
           "doc_host": "https://new-owner.github.io", "doc_baseurl": "/povid_nb"}
    assert links.owner(link.format("someone"), cfg) == link.format("new-owner")


def test_badges_follow_the_branch():
    other = links.badge("00_world.ipynb", {**CFG, "branch": "other"})
    assert links.owner(other, CFG) == links.badge("00_world.ipynb", CFG) != other


@pytest.mark.parametrize("other", ["https://github.com/huggingface/trl", "https://github.com/{}/povid_nb_two",
                                   "https://{}.github.io/other",
                                   "https://colab.research.google.com/github/a/b/blob/dev/c.ipynb"])
def test_links_of_others_are_left_alone(other):
    assert links.owner(other.format("someone"), CFG) == other.format("someone")


# ---- The site's frame -----------------------------------------------------------------------------------------------

def entries(contents):
    for entry in contents:
        if isinstance(entry, str): yield entry
        else: yield from entries(entry["contents"])


def test_the_sidebar_lists_every_notebook_once():
    sidebar = yaml.safe_load((ROOT/"nbs"/"sidebar.yml").read_text())["website"]["sidebar"]
    listed = list(entries(sidebar["contents"]))
    exist = {str(file.relative_to(ROOT/"nbs")) for file in links.notebooks()}
    assert set(listed) == exist - {"404.ipynb"}
    assert len(listed) == len(set(listed))


def test_the_sidebar_follows_the_files(tmp_path, monkeypatch):
    for name in ("05_lies", "03_noise", "labs/kinds", "workshop/shift"):
        file = tmp_path/"nbs"/f"{name}.ipynb"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.setattr(links, "ROOT", tmp_path)
    one = '      - section: "{}"\n        contents:\n{}'
    old = "".join(one.format(name, "          - gone.ipynb\n") for name in ("Lessons", "Labs", "Workshop", "Other"))
    listed = {"Lessons": ("03_noise", "05_lies"), "Labs": ("labs/kinds",), "Workshop": ("workshop/shift",),
              "Other": ("gone",)}
    new = "".join(one.format(name, "".join(f"          - {n}.ipynb\n" for n in names))
                  for name, names in listed.items())
    assert links.sidebar(old) == new and links.sidebar(new) == new


def test_the_course_table_names_every_notebook():
    index = (ROOT/"nbs"/"index.ipynb").read_text()
    for file in links.notebooks():
        path = str(file.relative_to(ROOT/"nbs"))
        if "/" in path or re.match(r"\d\d_", path):
            assert f"]({path})" in index, "run `make links`"


def test_the_course_table_is_read_off_the_notebooks(tmp_path, monkeypatch):
    (tmp_path/"nbs").mkdir()
    first = {"cell_type": "markdown", "source": ["# 05 · Lies\n", "\n", "> How does one lie?\n"]}
    (tmp_path/"nbs"/"05_lies.ipynb").write_text(json.dumps({"cells": [first]}))
    monkeypatch.setattr(links, "ROOT", tmp_path)
    rows = links.written_table(links.LESSONS, CFG).split("\n")
    assert rows[2:] == [f"| 05 | [Lies](05_lies.ipynb) | How does one lie? | {links.badge('05_lies.ipynb', CFG)} |"]
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|") == 5


def test_the_site_names_only_files_that_exist():
    config = yaml.safe_load((ROOT/"_quarto.yml").read_text())
    assert (ROOT/"nbs"/"_quarto.yml").resolve() == ROOT/"_quarto.yml"
    files = [config["format"]["html"]["css"], *(item["href"] for item in config["website"]["navbar"]["left"]),
             # nbdev writes that one at each build
             *(name for name in config["metadata-files"] if name != "nbdev.yml")]
    assert not [name for name in files if not (ROOT/"nbs"/name.partition("#")[0]).exists()]


@pytest.mark.parametrize("file", sorted((ROOT/".github"/"workflows").glob("*.yml")), ids=lambda file: file.stem)
def test_workflows_call_what_exists(file):
    jobs = yaml.safe_load(file.read_text())["jobs"]
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    targets = set(re.findall(r"^(\w+):", (ROOT/"Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (\w+)", commands)) <= targets
    for tool in re.findall(r"-m tools\.(\w+)", commands): assert (ROOT/"tools"/f"{tool}.py").exists()
