"The widgets' pages: their JavaScript passes its own tests, and travels with the package"
import shutil, subprocess
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")


def newer_than(major):
    return (NODE
            and int(subprocess.run([NODE, "--version"], capture_output=True, text=True)
                    .stdout[1:].split(".")[0]) >= major)


@pytest.mark.skipif(not newer_than(20), reason="needs Node 20 or newer")
def test_javascript():
    files = sorted(map(str, (ROOT/"tests"/"js").glob("*.test.mjs")))
    done = subprocess.run([NODE, "--test", *files], capture_output=True, text=True)
    if done.returncode: pytest.fail(done.stdout[-4000:] + done.stderr[-1000:], pytrace=False)


def test_every_page_is_in_the_package_and_has_a_test():
    pages = sorted(file.stem for file in (ROOT/"povid_nb"/"static").glob("*.js"))
    assert pages and all((ROOT/"tests"/"js"/f"{page}.test.mjs").exists() for page in pages)
    assert "static/*" in (ROOT/"setup.py").read_text()
