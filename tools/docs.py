"""Builds the site with nbdev and Quarto: python -m tools.docs
With --prepare it stops before Quarto, with the prepared notebooks in _proc.
"""
import sys
from nbdev import processors
from nbdev.config import get_config
from nbdev.quarto import nbdev_docs, refresh_quarto_yml
from nbdev.serve import proc_nbs


class exec_show_docs(processors.exec_show_docs):
    "Runs what the documentation of names needs: exported cells. nbdev would run each cell with an import, exercises too."
    def __call__(self, cell):
        if {"export", "exports", "exporti", "exec_doc"} & (cell.directives_ or {}).keys() or "show_doc" in cell.source:
            super().__call__(cell)


processors.exec_show_docs = exec_show_docs    # in nbdev's workers too: they import this file again

if __name__ == "__main__":
    if "--prepare" in sys.argv:
        refresh_quarto_yml()
        proc_nbs(force=True)
    else:
        (get_config().config_path/"README.md").touch()    # `make links` writes it; nbdev rewrites one that looks old
        nbdev_docs.__wrapped__()
