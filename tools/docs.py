"""Builds the site with nbdev and Quarto: python -m tools.docs
With --prepare it stops before Quarto, with the prepared notebooks in _proc.

With what `make live` has built, or can build here, the site has the live page too, and lessons that link to it can
open it.

A page of the course is its notebook, code included. nbdev would show of an exported cell only the signatures.
"""
import ast, importlib.util, re, shutil, subprocess, sys
from pathlib import Path
from nbdev import processors
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, patch_name
from nbdev.quarto import nbdev_docs, refresh_quarto_yml
from nbdev.serve import proc_nbs

EXPORTS = {"export", "exports", "exporti"}
LINK = re.compile(r"(\[[^]]*\]\([^)]*\)|`(?:\w+\.)*_\w+`)")     # a link, or a private name, which has no anchor
ROOT = Path(__file__).parents[1]
BUILT = ROOT/"build"/"live"
FRAME = """

```{{=html}}
<details><summary>Open it here (11 MB)</summary>
<iframe src="live.html{place}" title="The live page" loading="lazy"
  style="width:100%;height:46rem;border:1px solid #8886;border-radius:8px"></iframe></details>
```"""


def with_frame(source):
    """Below a paragraph of a lesson that links to the live page, the page itself in a fold that loads when it is
    opened; nothing where it is not built"""
    if not (BUILT/"live.html").exists(): return source
    link = re.compile(r"^(?!\|)[^\n]*\[[^]]+\]\(" + re.escape(home() + "live.html") + r"(#[^)]*)?\)[^\n]*$",
                      re.MULTILINE)
    return link.sub(lambda match: match[0] + FRAME.format(place=match[1] or ""), source, count=1)


def home(): return f"{get_config().doc_host}{get_config().doc_baseurl}/"


def copy_live(site):
    "The live page, with its model, into the site; where it is not built, a page of that name with a picture of it"
    if (BUILT/"live.html").exists(): return [shutil.copy(file, site) for file in BUILT.glob("*")] and None
    page = (ROOT/"live"/"src"/"live.html").read_text(encoding="utf-8")
    page = re.sub(r"<main.*?</main>|<script.*?</script>|<noscript><style>.*?</noscript>|</?noscript[^>]*>|<p>Built "
                  r"by.*?</p>", "", page, flags=re.DOTALL)
    page = page.replace("The model runs in your browser, which needs JavaScript and WebAssembly.",
                        "This copy of the site was built without the model; <code>make live</code> builds it.")
    (Path(site)/"live.html").write_text(page, encoding="utf-8")
    shutil.copy(ROOT/"live"/"src"/"live.css", site)
    shutil.copy(ROOT/"nbs"/"images"/"live.png", site)


def build_live():
    "Build the live page where npm and onnx are there; a site without it is whole"
    if not shutil.which("npm") or not importlib.util.find_spec("onnx"):
        return print("no live page: it needs npm, and pip install -e '.[live]'")
    subprocess.run([sys.executable, "-m", "tools.live", "--no-compare"], check=True)


def defined(source):
    "The public functions, classes and methods that a cell defines, named as nbdev's links name them"
    is_public = lambda node: isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    for node in filter(is_public, ast.parse(source).body):
        yield patch_name(node)
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{part.name}" for part in filter(is_public, node.body))


class add_anchors(processors.Processor):
    "Before each exported cell, the places that links to its names lead to"
    def begin(self):
        for i, cell in reversed(list(enumerate(self.nb.cells))):
            names = list(defined(cell.source)) if EXPORTS & (cell.directives_ or {}).keys() else []
            if names:
                self.nb.cells.insert(i,
                                     processors.mk_cell("".join(f"[]{{#{name.lower()}}}" for name in names),
                                                        cell_type="markdown"))


def link_names(text):
    """Names in backticks as links to their definition, the verbs of the command line apart; those inside a link or
    a block of code stay as they are"""
    lookup, lines, in_code = NbdevLookup(skip_mods=("povid_nb.cli",)), text.split("\n"), False
    for i, line in enumerate(lines):
        if line.startswith("```"): in_code = not in_code
        elif not in_code and not line.startswith("    "):
            lines[i] = "".join(part if LINK.fullmatch(part) else lookup.link_line(part) for part in LINK.split(line))
    return "\n".join(lines)


def add_links(cell):
    "nbdev's own makes links inside of links; and the live page where it is linked"
    if cell.cell_type == "markdown": cell.source = with_frame(link_names(cell.source))


def rm_export(cell):
    "What is exported stays; the line that only names the module goes"
    if "default_exp" in (cell.directives_ or {}): del cell["source"]


def exec_show_docs(cell): "Nothing to run: pages show what the notebooks hold"


# In nbdev's workers too: they import this file again
processors.add_show_docs, processors.add_links, processors.rm_export, processors.exec_show_docs = (add_anchors,
    add_links, rm_export, exec_show_docs)

if __name__ == "__main__":
    if "--prepare" in sys.argv:
        refresh_quarto_yml()
        proc_nbs(force=True)
    else:
        build_live()
        (get_config().config_path/"README.md").touch()    # `make links` writes it; nbdev rewrites one that looks old
        nbdev_docs.__wrapped__()
        copy_live(get_config().config_path/get_config().doc_path)
