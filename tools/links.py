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
TEXT = {".md", ".toml", ".yml", ".cff", ".ipynb", ".py", ".sh", ".txt", ".css"}
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


def course_row(line, cfg):
    "One row of the course table: linked with its badge when its notebook exists, `planned` when it does not"
    row = re.fullmatch(r"\| (\d\d|lab) \| (?:\[`)?`?([\w-]+)`?(?:\]\(.*?\))? \| (.*) \| [^|]* \|", line)
    if not row: return line
    number, name, idea = row.groups()
    path = f"labs/{name}.ipynb" if number == "lab" else f"{number}_{name}.ipynb"
    if not (ROOT/"nbs"/path).exists(): return f"| {number} | `{name}` | {idea} | planned |"
    return f"| {number} | [`{name}`]({path}) | {idea} | {badge(path, cfg)} |"


def by_line(text, change):
    return "\n".join(map(change, text.split("\n")))


def sidebar(text):
    "The sidebar with its workshop section written anew, and its commented lines alive once their files exist"
    shop = "".join(f"          - {path}\n" for path in workshop())
    text = re.sub(r'(- section: "Workshop"\n +contents:\n)(?: +- workshop/.*\n)*', rf"\g<1>{shop}", text)
    lines, in_use = [], False
    for line in reversed(text.split("\n")):
        entry = re.fullmatch(r" *(?:# )?- ([\w/-]+\.ipynb)", line)
        if entry:
            exists = (ROOT/"nbs"/entry[1]).exists()
            in_use = in_use or exists
        heading = re.fullmatch(r" *(?:# )?(?:contents:|- section: .*)", line)
        if (entry and exists) or (heading and in_use): line = line.replace("# ", "", 1)
        if heading and "section" in line: in_use = False
        lines.append(line)
    return "\n".join(reversed(lines))


def workshop():
    "The workshop's notebooks, as paths inside nbs/"
    return sorted(f"workshop/{file.name}" for file in (ROOT/"nbs"/"workshop").glob("*.ipynb"))


def idea(path):
    "The one sentence under a notebook's title"
    first = source(json.loads((ROOT/"nbs"/path).read_text(encoding="utf-8"))["cells"][0])
    return re.search(r"^> (.+)", first, re.MULTILINE)[1]


def workshop_table(cfg):
    "The front page's table of the workshop"
    rows = [f"| [`{Path(path).stem}`]({path}) | {idea(path)} | {badge(path, cfg)} |" for path in workshop()]
    return "\n".join(["| module | what it is | |", "|------|--------------------|------|", *rows])


def floor_table():
    "CONTRIBUTING.md's table of floors"
    floors = {}
    for name, floor in FLOORS.items():
        if (ROOT/"povid_nb"/f"{name}.py").exists(): floors.setdefault(floor, []).append(f"`{name}`")
    rows = [f"| {floor} | {' '.join(names)} |" for floor, names in sorted(floors.items(), reverse=True)]
    return "\n".join(["| floor | modules |", "|---|---|", *rows]) + "\n"


BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)")


def notebook(text, cfg, path):
    "The notebook at `path` inside nbs/ with its badge, its set-up cell and its tables renewed"
    nb = json.loads(text)
    head = nb["cells"][:3] if path != "index.ipynb" else []
    if path == "reference.ipynb": return reference_page(nb, text)
    def renew(cell):
        if is_setup(cell): return setup_cell(cfg)
        if cell["cell_type"] != "markdown": return source(cell)
        if source(cell).startswith("| module | what it is | |"): return workshop_table(cfg)
        if cell in head: return BADGE.sub(badge(path, cfg), source(cell))
        return by_line(source(cell), lambda line: course_row(line, cfg))
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
    written = [cell("table", reference.table()), *(cell(name, reference.module(name)) for name in reference.modules())]
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
    return head + "\n\n".join(show(cell).strip() for cell in cells if cell["cell_type"] != "raw") + "\n"


def notebooks():
    "All notebooks of the course"
    return sorted(file for file in (ROOT/"nbs").rglob("*.ipynb")
                  if not any(part[0] in "._" for part in file.relative_to(ROOT).parts))


def files():
    "The project's text files: those that git knows, or would"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode: names = [p.relative_to(ROOT) for top in ("nbs", "povid_nb", "tests", "tools") for p in (ROOT/top).rglob("*")]
    else: names = map(Path, sorted(set(listed.stdout.splitlines())))
    return [ROOT/name for name in names if name.suffix in TEXT and (ROOT/name).is_file() and not (ROOT/name).is_symlink()]


def stale():
    "The files that are out of step, each with the text that it should hold"
    cfg, found = settings(), {}
    for file in files():
        old = file.read_text(encoding="utf-8")
        new = owner(old, cfg)
        if file.suffix == ".ipynb": new = notebook(new, cfg, str(file.relative_to(ROOT/"nbs")))
        if file.name == "sidebar.yml": new = sidebar(new)
        if file.name == "CONTRIBUTING.md": new = re.sub(r"\| floor \| modules \|\n(\|.*\n)+", floor_table(), new)
        if new != old: found[file] = new
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
