"""The site's pages as readers get them, without Quarto: nbdev processes the notebooks, nbconvert and pandoc render
them, and `problems` says which links, anchors, pictures and formulas are broken.

    python -m tools.pages FOLDER     renders into FOLDER and lists the problems
"""
import json, os, re, shutil, subprocess, sys, tempfile
from html.parser import HTMLParser
from pathlib import Path
from posixpath import normpath
from urllib.parse import unquote, urlsplit
import nbformat
from nbconvert import MarkdownExporter
from tools.docs import copy_live
from tools.links import ROOT, settings

def process(work):
    "Lets nbdev prepare all notebooks in a copy of the tree; returns the folder with the prepared ones"
    tree = Path(work)/"tree"
    tree.mkdir()
    for name in ("settings.ini", "pyproject.toml", "_quarto.yml"): shutil.copy(ROOT/name, tree)
    for name in ("nbs", "povid_nb"):
        shutil.copytree(ROOT/name, tree/name, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    done = subprocess.run([sys.executable, "-m", "tools.docs", "--prepare"], cwd=tree, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    if done.returncode: raise RuntimeError(f"nbdev could not process the notebooks:\n{done.stderr[-3000:]}")
    return tree/"_proc"


def page_name(path):
    "The page that nbdev makes of a notebook: 03_noise.ipynb -> noise.html"
    path = Path(path)
    return str(path.with_name(re.sub(r"^\d+[a-zA-Z0-9]*_", "", path.name.lower())).with_suffix(".html"))


def alt_text(source):
    found = re.search(r"^#\| *fig-alt: *(.*)$", source, re.MULTILINE)
    return found[1].strip("\"' ") if found else ""


def to_markdown(notebook):
    "A processed notebook as Markdown, and its pictures as {name: bytes}"
    plain = json.loads(notebook.read_text(encoding="utf-8"))
    # nbdev's own mark, which nbformat does not know
    for cell in plain["cells"]: cell.pop("has_sd", None)
    nb = nbformat.reads(json.dumps(plain), as_version=4)
    alts = [alt_text(cell.source) for cell in nb.cells]
    for cell in nb.cells:
        if cell.cell_type == "code": cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.MULTILINE)
    # front matter
    nb.cells = [nbformat.v4.new_markdown_cell("") if cell.cell_type == "raw" else cell for cell in nb.cells]
    body, resources = MarkdownExporter().from_notebook_node(nb,
                                                            {"unique_key": notebook.stem,
                                                             "output_files_dir": f"{notebook.stem}_files"})
    # nbconvert itself knows nothing of fig-alt
    def with_alt(match): return f"![{alts[int(match[2])]}]({match[1]})"
    body = re.sub(r"!\[\w+\]\(([^)\s]*_(\d+)_\d+\.\w+)\)", with_alt, body)
    return body, {name: data for name, data in resources["outputs"].items() if name in body}


def render(notebooks, site):
    "Renders all notebooks below `notebooks` into the folder `site`; returns what pandoc complained of"
    complaints = []
    for notebook in sorted(notebooks.rglob("*.ipynb")):
        path = notebook.relative_to(notebooks)
        body, pictures = to_markdown(notebook)
        page = site/page_name(path)
        page.parent.mkdir(parents=True, exist_ok=True)
        for name, data in pictures.items():
            (page.parent/name).parent.mkdir(exist_ok=True)
            (page.parent/name).write_bytes(data)
        done = subprocess.run(["pandoc", "-f", "markdown", "-t", "html5", "--mathml", "--no-highlight", "-s",
                               "--metadata", "lang=en", "--metadata", f"title={path.stem}", "-o", page],
                              input=body, capture_output=True, text=True)
        complaints += [f"{path}: {line}" for line in done.stderr.splitlines()]
        if done.returncode: raise RuntimeError(f"pandoc failed on {path}: {done.stderr}")
    for other in notebooks.rglob("*"):                                       # pictures that lie beside the notebooks
        if other.suffix in {".png", ".jpg", ".svg", ".gif", ".css"}:
            (site/other.relative_to(notebooks)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(other, site/other.relative_to(notebooks))
    copy_live(site)
    return complaints


class Page(HTMLParser):
    "The links, anchors, pictures and words of one page; code is no words"
    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.pictures, self.words, self.code = set(), [], [], "", 0
        self.feed(text)

    def handle_data(self, data):
        if not self.code: self.words += data

    def handle_endtag(self, tag): self.code -= tag == "code"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.code += tag == "code"
        if "id" in attrs: self.ids.add(attrs["id"])
        if tag == "a" and "name" in attrs: self.ids.add(attrs["name"])
        if tag == "a" and "href" in attrs: self.links.append(attrs["href"])
        if tag == "img": self.pictures.append((attrs.get("src", ""), attrs.get("alt", "")))


def problems(site, cfg=None, root=ROOT):
    "What is broken in the pages of a folder: one line each"
    cfg, site = cfg or settings(), Path(site)
    pages = {str(file.relative_to(site)): Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    home = f"{cfg['doc_host']}{cfg['doc_baseurl']}/"
    blobs = (f"{cfg['git_url']}/blob/{cfg['branch']}/",
             f"https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/")
    found = []

    def inside(name, link):
        "The file of the site that a link on page `name` leads to, and its anchor"
        parts = urlsplit(link)
        target = normpath(f"{Path(name).parent}/{unquote(parts.path)}") if parts.path else name
        return (page_name(target) if target.endswith(".ipynb") else target), unquote(parts.fragment)

    def check_link(name, link):
        for blob in blobs:
            if link.startswith(blob):
                path = unquote(urlsplit(link[len(blob):]).path)
                if not (root/path).exists(): found.append(f"{name}: no such file in the repository: {path}")
                return
        if link.startswith(home): name_from, link = "index.html", link[len(home):] or "index.html"
        elif urlsplit(link).scheme: return                                   # other people's pages
        else: name_from = name
        target, anchor = inside(name_from, link)
        if target not in pages and not (site/target).is_file(): found.append(f"{name}: broken link: {link}")
        elif target == "live.html": return                                   # what follows # there is a state
        elif anchor and target in pages and anchor not in pages[target].ids:
            found.append(f"{name}: no such anchor: {link}")

    for name, page in pages.items():
        for link in page.links: check_link(name, link)
        for raw in re.findall(r"\[[^]]*\](?:\(http|\{#)\S*", page.words):
            found.append(f"{name}: a link that is shown as it is written: {raw}")
        for source, alt in page.pictures:
            if not (alt or "").strip(): found.append(f"{name}: a picture without words: {source[:80]}")
            if not urlsplit(source).scheme and not (site/inside(name, source)[0]).is_file():
                found.append(f"{name}: no such picture: {source}")
    return found


if __name__ == "__main__":
    site = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as work: complaints = render(process(work), site)
    sys.exit("\n".join(complaints + problems(site)) or None)
