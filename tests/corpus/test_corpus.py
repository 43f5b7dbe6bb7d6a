"""Every input of the corpus ends as it should: with a result, or with one line that says what is wrong.

Nothing may end in a traceback, take half a minute or a gigabyte, print a number that is none, or run code that came
with the data. By default about every ninth input is tried, `pytest --slow` tries all. The outcomes are in README.md
beside this file, written by `POVID_CORPUS=write pytest tests/corpus`; the test fails where the inputs or the way they
end are others than on that page.
"""
import os, re, resource, signal, sys, warnings, zlib
from pathlib import Path
import pytest
from typer.testing import CliRunner
from povid_nb.cli import app

sys.path.insert(0, str(Path(__file__).parent))
import cases   # noqa: E402

pytestmark = pytest.mark.attack

README = Path(__file__).with_name("README.md")
CODES, SECONDS, MEGABYTES = {"ok": 0, "aside": 0, "refused": 1, "usage": 2}, 30, 600
SEEN = {}      # area -> (input, how it ends, what is said) of each of its cases
WRITE, ONLY = os.environ.get("POVID_CORPUS") == "write", os.environ.get("POVID_CASE")
HEAD = """# Malformed inputs, and what the command line says to them

Written by `POVID_CORPUS=write pytest tests/corpus`, which tries all of them; `pytest tests/corpus` tries some and holds this page to the list.
None ends in a traceback, takes 30 seconds of computing or 600 MB, prints a number that is none, or runs code that came with the data.
*ok*: odd and good. *aside*: a part is set aside, with a warning. *refused*: one line, exit 1. *usage*: one line of the command line's parser, exit 2.

"""


def page():
    "The page of outcomes"
    count = lambda rows: " | ".join(str(sum(row[1] == how for row in rows)) for how in CODES)
    every = [row for area in cases.AREAS for row in SEEN[area]]
    lines = [f"| area | inputs | {' | '.join(CODES)} |", "|---" * (len(CODES) + 2) + "|",
             *(f"| {area} | {len(SEEN[area])} | {count(SEEN[area])} |" for area in cases.AREAS),
             f"| together | {len(every)} | {count(every)} |"]
    for area in cases.AREAS:
        lines += ["", f"## {area.capitalize()}", "", "| input | ends | what is said |", "|---|---|---|",
                  *(f"| {name} | {ends} | {text} |" for name, ends, text in SEEN[area])]
    return HEAD + "\n".join(lines) + "\n"


def without_text(page):
    "What is said is partly the text of other packages"
    return re.sub(r"^(\| .* \| (?:%s)) \| .* \|$" % "|".join(CODES), r"\1 |  |", page, flags=re.M)


@pytest.fixture(scope="module", autouse=True)
def kept():
    "Write the page of outcomes, where that is asked for and all of them were tried"
    yield
    if WRITE and SEEN.keys() == cases.AREAS.keys() and not ONLY: README.write_text(page())


def too_long(*_): raise TimeoutError(f"took more than {SECONDS} s of computing, or hangs")


def call(words):
    "(exit code, what was printed, what was said on the side) of one command, in this process"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in (signal.SIGPROF, signal.SIGALRM): signal.signal(number, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)      # of this process alone: a busy machine makes nothing fail
    signal.alarm(20 * SECONDS)                         # for what waits without computing
    try:
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always")
            done = CliRunner().invoke(app, words, input="y\n" * 9)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if done.exception and not isinstance(done.exception, SystemExit): raise done.exception
    assert used < MEGABYTES, f"took {used:.0f} MB"
    return (done.exit_code, done.stdout, done.stderr,
            [str(w.message) for w in noted if w.category is UserWarning and "set aside" in str(w.message)
             or "made for" in str(w.message)])


def judged(words, ends, folder):
    "What is said, in one line; fails where it does not end as it should"
    code, printed, said, noted = call(words)
    lines = [line for line in said.splitlines() if line.startswith(("error:", "Error:"))]
    assert code == CODES[ends], f"exit {code}, expected {CODES[ends]}: {(said or printed)[-300:]}"
    assert "error: unexpected" not in said and "Traceback" not in said, said
    if ends in ("refused", "usage"): assert len(lines) == 1, said
    else: assert not re.search(r"\bnan\b", printed, re.I), printed
    if ends == "aside": assert noted, "nothing says what was left out"
    return (lines or noted or [""])[0]


def plain(text, *folders):
    "Text for a cell of the page, the same on every machine"
    for folder in sorted(map(str, folders), key=len, reverse=True): text = text.replace(folder, "…")
    text = re.sub(r"(/[\w.-]+)*/(povid_nb|site-packages)/", r"\2/", text).replace("|", "\\|").replace("<", "&lt;")
    text = re.sub(r"/tmp/tmp\w+", "/tmp/…", text)
    return "".join(c if c.isprintable() else "·" for c in text)[:220]


def chosen(name, request):
    "All inputs, or every ninth; which ones depends on the name alone"
    return ONLY in name if ONLY else WRITE or request.config.getoption("--slow") or zlib.crc32(name.encode()) % 9 == 0


@pytest.mark.parametrize("area", cases.AREAS)
def test_the_corpus(area, tmp_path, monkeypatch, request):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-corpus-0123456789")
    monkeypatch.chdir(tmp_path)
    data = request.getfixturevalue("data")
    faults, rows = [], []
    for number, (kind, name, words, ends) in enumerate(cases.AREAS[area](tmp_path/area)):
        said = ""
        if chosen(f"{kind}: {name}", request):
            out = tmp_path/f"out-{number}"
            words = [word.replace("{}", str(out)) if word.startswith("{}") else str(data) if word == "DATA" else word
                     for word in words]
            try: said = judged(words, ends, out)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt): raise
                faults.append(f"{kind}: {name}: {type(error).__name__}: {str(error).splitlines()[0][:300]}")
            said = plain(said.removeprefix("error: ").removeprefix("Error: "), out, tmp_path/area, tmp_path, data)
        rows.append((f"{kind}: {plain(name)}", ends, said))
    ran = [str(file) for file in tmp_path.rglob("ran")]
    assert not ran, f"code that came with the data has run: {ran}"
    assert not faults, f"{len(faults)} of {number + 1}:\n" + "\n".join(faults)
    SEEN[area] = rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "A folder of four good pairs"
    from povid_nb.inject import make_pairs
    folder = tmp_path_factory.mktemp("data")
    make_pairs(n=4, out=folder, progress=False)
    import matplotlib.pyplot, peft, transformers, povid_nb.stages   # noqa: F401 (no case shall pay for the imports)
    return folder


def test_the_page_is_in_step_with_the_inputs():
    "Runs last: each input, how it ends, and how many there are; not the words"
    if SEEN.keys() != cases.AREAS.keys() or ONLY: pytest.skip("only some of the areas were tried")
    if not WRITE:
        assert without_text(README.read_text()) == without_text(page()), (
            f"POVID_CORPUS=write pytest {Path(__file__).parent} writes the page again")
