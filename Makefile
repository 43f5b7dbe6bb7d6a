# `make` alone lists what can be done.
#   VENV=folder    the Python environment to use; it is made when absent, and left as it is when it is your own
#   PYTHON=path    the Python to make it with (default: python3.11 where there is one, else 3.12 or 3.13)

SHELL := bash
VENV ?= .venv
BIN := $(VENV)/bin

export PYTHON
export PYTHONPATH := $(CURDIR)
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help env demo test lab live outputs links docs hooks

help:    ## show this list
	@grep -E '^[a-z]+: .*##' Makefile | sed -E 's/: [^#]*##/\t/' | awk -F'\t' '{printf "make %-9s%s\n", $$1, $$2}'

env:
	@tools/environment.sh $(VENV)

demo: env    ## run the whole method on the built-in model and write runs/demo/report.html
	$(BIN)/python -m povid_nb.cli run --config demo --out runs/demo

test: export HF_HUB_OFFLINE := 1
test: env    ## check that notebooks and modules are in step, then run every notebook and every test
	$(BIN)/python -m tools.in_step
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --timing
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lab: env    ## open the course in JupyterLab
	$(BIN)/jupyter lab nbs/index.ipynb

live: env    ## build the page with the model in it into build/live, and compare it with torch (needs Node)
	$(BIN)/python -m tools.live

outputs: env    ## run the notebooks and save what they show (one of them: make outputs NB=03_noise)
	$(BIN)/python -m tools.outputs $(NB)
	$(BIN)/nbdev_clean

links: env    ## after adding a notebook or changing the owner: bring links, badges, tables and README in step
	$(BIN)/nbdev_export
	$(BIN)/python -m tools.links
	$(BIN)/nbdev_clean

docs: env    ## build the site into _docs (needs Quarto)
	@command -v quarto >/dev/null || { echo "Quarto was not found; it is needed to build the site: https://quarto.org/docs/get-started"; exit 1; }
	$(BIN)/python -m tools.docs

hooks: env    ## let git merge notebooks cell by cell (once in each checkout)
	PATH="$(abspath $(BIN)):$$PATH" nbdev_install_hooks
