"The wheel, installed away from the checkout, is the whole library"
import os, subprocess, sys, zipfile
from importlib.metadata import PathDistribution
from pathlib import Path
import pytest
from packaging.requirements import Requirement
from tools.links import settings

ROOT = Path(__file__).parents[2]
CFG = settings()


def run(*command, cwd, **env):
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env={**clean, **env}, capture_output=True, text=True,
                          timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built from the files that git would commit, so that nothing left lying about can help"
    work = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode: pytest.skip("not a git checkout")
    for name in filter(lambda name: (ROOT/name).is_file(), listed.stdout.splitlines()):
        (work/"tree"/name).parent.mkdir(parents=True, exist_ok=True)
        (work/"tree"/name).write_bytes((ROOT/name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", work, cwd=work/"tree")
    return next(work.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    "A clean environment that holds the wheel, and borrows torch and the rest from this one"
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", home/"venv", cwd=home)
    python = home/"venv"/"bin"/"python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    lenders = [path for path in sys.path if path.endswith("-packages")]
    # after its own packages; an editable install's hook is not followed
    (packages/"lent.pth").write_text("\n".join(lenders))
    return home, python


def test_it_is_found_where_it_was_installed(installed):
    home, python = installed
    where = run(python, "-c", "import povid_nb; print(povid_nb.__file__, povid_nb.__version__)", cwd=home)
    assert where.split() == [str(next((home/"venv").rglob("povid_nb/__init__.py"))), CFG["version"]]


def test_every_module_can_be_imported(installed, wheel):
    home, python = installed
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("povid_nb/")
             and name.endswith(".py")]
    modules = [Path(name).stem for name in names if not Path(name).stem.startswith("_")]
    assert set(modules) == {file.stem for file in (ROOT/"povid_nb").glob("*.py") if file.stem[0] != "_"}
    run(python, "-c", "\n".join(f"import povid_nb.{name}" for name in modules) or "pass", cwd=home)


def test_its_command_works(installed):
    home, python = installed
    assert "Usage" in run(python.with_name("povid"), "--help", cwd=home)


def test_it_carries_all_that_lies_in_the_package(wheel):
    "The built-in model, settings, launch files, prices, and the results of long runs"
    carried = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("povid_nb/")}
    assert carried == {str(file.relative_to(ROOT)) for file in (ROOT/"povid_nb").rglob("*") if file.is_file()
                       and file.suffix != ".pyc"}


def test_its_model_speaks_and_its_results_are_found(installed):
    home, python = installed
    program = ("from povid_nb.vlm import VLM; from povid_nb.trials import Lab; from PIL import Image; "
               "print(VLM.load().describe(Image.new('RGB', (96, 96)))); print(len(Lab('ablation').saved()['means']))")
    said, contestants = run(python, "-c", program, cwd=home, HF_HUB_OFFLINE="1").strip().splitlines()
    assert said and int(contestants) > 3


def needs(line):
    "A requirement in one form: its name, its sorted bounds, its extra"
    found = Requirement(line)
    return found.name, str(found.specifier), str(found.marker or "")


EXTRAS = {name.removesuffix("_requirements") for name in CFG if name.endswith("_requirements")}


def everything():
    "All requirements that settings.ini names"
    yield from CFG["requirements"].split()
    for extra in EXTRAS: yield from (f'{line}; extra == "{extra}"' for line in CFG[f"{extra}_requirements"].split())


def test_its_label_says_what_settings_say(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as files: files.extractall(tmp_path)
    label = PathDistribution(next(tmp_path.glob("*.dist-info")))
    says = label.metadata
    assert (says["Name"], says["Version"]) == (CFG["lib_name"], CFG["version"])
    assert says["License-Expression"] == "Apache-2.0"
    assert says["Requires-Python"] == f">={CFG['min_python']}"
    assert f"Repository, {CFG['git_url']}" in says.get_all("Project-URL")
    assert set(says.get_all("Provides-Extra")) == EXTRAS
    assert sorted(map(needs, label.requires)) == sorted(map(needs, everything()))
    assert any(file.name == "LICENSE" for file in label.files)
    assert {entry.name: entry.value for entry in label.entry_points
            if entry.group == "console_scripts"} == {"povid": "povid_nb.cli:app"}
