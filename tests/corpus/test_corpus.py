"""Every input of the corpus ends as it should: with a result, or with one line that says what is wrong.

Nothing may end in a traceback, take half a minute or a gigabyte, print a number that is none, or run code that came with the data.
The outcomes are in README.md beside this file, written by `POVID_CORPUS=write pytest tests/corpus`; the test fails where they differ.
"""
import os, re, resource, signal, sys, warnings
from pathlib import Path
import pytest
from typer.testing import CliRunner
from povid_nb.cli import app

sys.path.insert(0, str(Path(__file__).parent))
import cases   # noqa: E402

README = Path(__file__).with_name("README.md")
CODES, SECONDS, MEGABYTES = {"ok": 0, "aside": 0, "refused": 1, "usage": 2}, 30, 600
SEEN = {}      # area -> rows of the page


@pytest.fixture(scope="module", autouse=True)
def page():
    "The page of outcomes, compared with the one that is kept"
    yield
    if SEEN.keys() != cases.AREAS.keys(): return           # only some of the areas were run
    rows = [row for area in cases.AREAS for row in SEEN[area]]
    counts = {how: sum(f"| {how} |" in row for row in rows) for how in CODES}
    text = HEAD.format(n=len(rows), **counts) + "\n".join(["| input | ends | what is said |", "|---|---|---|", *rows]) + "\n"
    if os.environ.get("POVID_CORPUS") == "write": README.write_text(text)
    assert not README.exists() or README.read_text() == text, f"the outcomes have changed: POVID_CORPUS=write pytest {Path(__file__).parent} writes them"


HEAD = """# Malformed inputs, and what the command line says to them

Written by `POVID_CORPUS=write pytest tests/corpus`, and compared by `pytest tests/corpus`. {n} inputs: {ok} are odd and good, of {aside} a
part is set aside with a warning, {refused} are refused in one line (exit 1), {usage} by the parser of the command line (exit 2). None ends in a traceback,
takes 30 seconds or 600 MB, prints a number that is none, or runs code that came with the data.

"""


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
    return done.exit_code, done.stdout, done.stderr, [str(w.message) for w in noted if w.category is UserWarning and "set aside" in str(w.message) or "made for" in str(w.message)]


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


@pytest.mark.parametrize("area", cases.AREAS)
def test_the_corpus(area, tmp_path, monkeypatch, request):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-corpus-0123456789")
    monkeypatch.chdir(tmp_path)
    data = request.getfixturevalue("data")
    only, faults, rows = os.environ.get("POVID_CASE"), [], []
    for number, (kind, name, words, ends) in enumerate(cases.AREAS[area](tmp_path/area)):
        if only and only not in name: continue
        out = tmp_path/f"out-{number}"
        words = [word.replace("{}", str(out)) if word.startswith("{}") else str(data) if word == "DATA" else word for word in words]
        try: said = judged(words, ends, out)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt): raise
            faults.append(f"{kind}: {name}: {type(error).__name__}: {str(error).splitlines()[0][:300]}")
            continue
        rows.append(f"| {kind}: {plain(name)} | {ends} | {plain(said.removeprefix('error: ').removeprefix('Error: '), out, tmp_path/area, tmp_path, data)} |")
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
