"""Brings in step what follows from settings.ini and from the notebooks that exist:
the owner in every link and badge, the set-up cell, the course tables, the sidebar, the reference page and README.md.

    python -m tools.links            rewrites the files
    python -m tools.links --check    only names those that are out of step, and fails if there are any
"""
import hashlib, json, re, subprocess, sys, tomllib
from configparser import ConfigParser
from pathlib import Path
from tools import reference
from tools.floors import FLOORS

ROOT = Path(__file__).parents[1]
TEXT = {".md", ".html", ".toml", ".yml", ".cff", ".ipynb", ".py", ".sh", ".txt", ".css"}
COLAB = "https://colab.research.google.com"


def settings():
    "settings.ini, as a mapping"
    config = ConfigParser(delimiters=["="])
    config.read(ROOT/"settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def owner(text, cfg):
    "Every link to this project's repository or site, with the owner and the names of settings.ini"
    project = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))["project"]
    before = project["urls"]["Repository"].rsplit("/", 1)[1]     # tells a renamed repository from other people's
    repo = "|".join(map(re.escape, {before, cfg["repo"]}))
    text = re.sub(rf"(github\.com|githubusercontent\.com|google\.com/github)/[\w.-]+/(?:{repo})(?![\w-])",
                  rf"\g<1>/{cfg['user']}/{cfg['repo']}", text)
    text = re.sub(rf"({COLAB}/github/{cfg['user']}/{cfg['repo']}/blob)/[\w.-]+", rf"\g<1>/{cfg['branch']}", text)
    return re.sub(rf"https://[\w-]+\.github\.io/(?:{repo})(?![\w-])", cfg["doc_host"] + cfg["doc_baseurl"], text)


def badge(path, cfg):
    "The Colab badge of the notebook at `path` inside nbs/"
    return (f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]"
            f"({COLAB}/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/nbs/{path})")


def setup_cell(cfg):
    "The set-up cell, the same in every notebook: it installs on Colab and does nothing elsewhere"
    return f'import sys\nif "google.colab" in sys.modules:\n    !pip install -q "git+{cfg["git_url"]}"'


def is_setup(cell):
    return cell["cell_type"] == "code" and "google.colab" in source(cell) and "pip install" in source(cell)


def source(cell):
    "A cell's text, whether the file holds it as one string or as lines"
    return "".join(cell["source"])


def sidebar(text):
    "The sidebar with its sections of lessons, labs and workshop written anew"
    for section, paths in (("Lessons", lessons()), ("Labs", labs()), ("Workshop", workshop())):
        listed = "".join(f"          - {path}\n" for path in paths)
        text = re.sub(rf'(- section: "{section}"\n +contents:\n)(?: +- .*\.ipynb\n)*', rf"\g<1>{listed}", text)
    return text


def lessons():
    "The course's notebooks in reading order, as paths inside nbs/"
    return sorted(file.name for file in (ROOT/"nbs").glob("[0-9][0-9]_*.ipynb"))


def labs():
    "The labs, as paths inside nbs/, the page of all labs first"
    return sorted((f"labs/{file.name}" for file in (ROOT/"nbs"/"labs").glob("*.ipynb")),
                  key=lambda path: ("index" not in path, path))


def workshop():
    "The workshop's notebooks, as paths inside nbs/"
    return sorted(f"workshop/{file.name}" for file in (ROOT/"nbs"/"workshop").glob("*.ipynb"))


def title(path):
    "A notebook's title without its number, and the one sentence under it"
    first = source(json.loads((ROOT/"nbs"/path).read_text(encoding="utf-8"))["cells"][0])
    return re.search(r"^# (?:\S+ · )?(.+)", first)[1], re.search(r"^> (.+)", first, re.MULTILINE)[1]


def table(head, rows):
    return "\n".join([head, re.sub(r"[^|]+", lambda part: "-" * max(2, len(part[0])), head), *rows])


LESSONS, LABS, SHOP = "| | lesson | its one question | |", "| lab | what it does | |", "| module | what it is | |"

def written_table(head, cfg):
    "A table of the front page, by its first line"
    if head == LESSONS:
        row = lambda path, name, idea: f"| {path[:2]} | [{name}]({path}) | {idea} | {badge(path, cfg)} |"
        return table(head, [row(path, *title(path)) for path in lessons()])
    if head == LABS:
        row = lambda path, name, idea: f"| [{name}]({path}) | {idea} | {badge(path, cfg)} |"
        return table(head, [row(path, *title(path)) for path in labs()])
    return table(head,
                 [f"| [`{Path(path).stem}`]({path}) | {title(path)[1]} | {badge(path, cfg)} |" for path in workshop()])


def floor_table():
    "CONTRIBUTING.md's table of floors"
    floors = {}
    for name, floor in FLOORS.items():
        if (ROOT/"povid_nb"/f"{name}.py").exists(): floors.setdefault(floor, []).append(f"`{name}`")
    rows = [f"| {floor} | {' '.join(names)} |" for floor, names in sorted(floors.items(), reverse=True)]
    return "\n".join(["| floor | modules |", "|---|---|", *rows]) + "\n"


def lesson_table():
    "CONTRIBUTING.md's table of lessons"
    from tools import lessons
    return lessons.table()


BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")


def notebook(text, cfg, path):
    "The notebook at `path` inside nbs/ with its badge, its set-up cell and its tables renewed"
    nb = json.loads(text)
    head = nb["cells"][:3] if path != "index.ipynb" else []
    if path == "reference.ipynb": return reference_page(nb, text)
    def renew(cell):
        if is_setup(cell): return setup_cell(cfg)
        if cell["cell_type"] != "markdown": return source(cell)
        first = source(cell).partition("\n")[0]
        if first in (LESSONS, LABS, SHOP): return written_table(first, cfg)
        return BADGE.sub(badge(path, cfg), source(cell)) if cell in head else source(cell)
    changed = False
    for cell in nb["cells"]:
        new = renew(cell)
        if new != source(cell):
            cell["source"] = new.splitlines(keepends=True)
            changed = True
    return json.dumps(nb, ensure_ascii=False, indent=1, sort_keys=True) + "\n" if changed else text


def reference_page(nb, text):
    "The reference page: its title and introduction, then a table and a cell for each module"
    def cell(name, lines):
        mark = hashlib.sha256(f"reference {name}".encode()).hexdigest()[:8]
        return {"cell_type": "markdown", "id": mark, "metadata": {}, "source": lines.splitlines(keepends=True)}
    written = [cell("twelve", reference.twelve()), cell("table", reference.table()),
               *(cell(name, reference.module(name)) for name in reference.modules())]
    made = {**nb, "cells": nb["cells"][:2] + written}
    new = json.dumps(made, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    return text if json.loads(text) == made else new


def readme(index):
    "README.md: the course's front page as plain Markdown, its links seen from the top folder"
    def show(cell):
        text = source(cell)
        if cell["cell_type"] == "markdown":
            return re.sub(r"\]\((?!https?:|mailto:|#)([^)]+)\)", r"](nbs/\1)", text)
        code = "\n".join(line for line in text.split("\n") if not line.startswith("#|"))
        return f"```python\n{code.strip()}\n```"
    cells = json.loads(index)["cells"]
    head = "<!-- Written by `make links` from nbs/index.ipynb: edit that notebook. -->\n\n"
    # no widgets
    kept = [cell for cell in cells if cell["cell_type"] != "raw" and "#| echo: false" not in source(cell)]
    return head + "\n\n".join(show(cell).strip() for cell in kept) + "\n"


def notebooks():
    "All notebooks of the course"
    return sorted(file for file in (ROOT/"nbs").rglob("*.ipynb")
                  if not any(part[0] in "._" for part in file.relative_to(ROOT).parts))


def files():
    "The project's text files: those that git knows, or would"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        names = [p.relative_to(ROOT) for top in ("nbs", "povid_nb", "tests", "tools") for p in (ROOT/top).rglob("*")]
    else: names = map(Path, sorted(set(listed.stdout.splitlines())))
    return [ROOT/name for name in names if name.suffix in TEXT and (ROOT/name).is_file()
            and not (ROOT/name).is_symlink()]


def changelog(page, text):
    "The page of changes, with what CHANGELOG.md says below its title"
    nb = json.loads(page)
    nb["cells"][1]["source"] = text.split("\n", 2)[2].strip("\n").splitlines(keepends=True)
    return json.dumps(nb, indent=1, ensure_ascii=False) + "\n"


def stale():
    "The files that are out of step, each with the text that it should hold"
    cfg, found = settings(), {}
    for file in files():
        old = file.read_text(encoding="utf-8")
        new = owner(old, cfg)
        if file.suffix == ".ipynb": new = notebook(new, cfg, str(file.relative_to(ROOT/"nbs")))
        if file.name == "sidebar.yml": new = sidebar(new)
        if file.name == "CONTRIBUTING.md": new = re.sub(r"\| floor \| modules \|\n(\|.*\n)+", floor_table(), new)
        if file.name == "CONTRIBUTING.md":
            new = re.sub(r"\| lesson \| code cells \|.*\n(\|.*\n)+", lambda _: lesson_table(), new)
        if new != old: found[file] = new
    news = ROOT/"nbs"/"changelog.ipynb"
    page = changelog(news.read_text(encoding="utf-8"), (ROOT/"CHANGELOG.md").read_text(encoding="utf-8"))
    if page != news.read_text(encoding="utf-8"): found[news] = page
    index, front = ROOT/"nbs"/"index.ipynb", ROOT/"README.md"
    page = readme(found.get(index) or index.read_text(encoding="utf-8"))
    if page != front.read_text(encoding="utf-8"): found[front] = page
    return found


if __name__ == "__main__":
    out_of_step = stale()
    for file, text in out_of_step.items():
        print(file.relative_to(ROOT))
        if "--check" not in sys.argv: file.write_text(text, encoding="utf-8")
    if out_of_step and "--check" in sys.argv: sys.exit("These are out of step: run `make links` and commit.")
