# Two commands matter: `make demo` and `make test`. Each makes what it needs, and starts in a second when that is there.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# More words for the command, e.g. make test ARGS="-k gmm".
ARGS ?=

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

demo: $(VENV)/.base ## the main job on an embedded table, with the base package only
	@$(BIN)/ppl-gen demo $(ARGS)

test: $(VENV)/.test ## the whole suite; then the base suite on a newer Python where there is one
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)
	@bash scripts/test_newer_python.sh $(ARGS)

lint: $(VENV)/.test ## style, and types of the built package
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@rm -rf build .typecheck
	@$(PIP) install --no-deps --target .typecheck .
	@cd .typecheck && ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p ppl_gen

bench: $(VENV)/.bench ## the benchmarks, each beside its peer
	@$(BIN)/python benchmarks/run.py $(ARGS)

calibration: $(VENV)/.test ## which posteriors are found (docs/calibration.md); hours on two cores, and it resumes
	@$(BIN)/python docs/make_calibration.py $(ARGS)

parity: $(VENV)/.test ## how far the two backends differ: docs/parity.md
	@$(BIN)/python docs/make_parity.py $(ARGS)

docs: $(VENV)/.docs ## the pages of docs/ as a site under site/
	@$(BIN)/mkdocs build --quiet --strict

dist: $(VENV)/.test ## wheel and source archive under dist/ (the wheel is built from the archive)
	@rm -rf build dist *.egg-info # setuptools would ship stale modules from them
	@$(BIN)/python -m build -q --outdir dist .
	@ls -l dist

clean: ## remove environments, caches and built files; runs/ stays
	@rm -rf $(VENV) .venv-newer .typecheck build dist site *.egg-info .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: one stamp file for each set of extras, older than none of the files that say what to install.
EXTRAS_base :=
EXTRAS_test := [pyro,test]
EXTRAS_bench := [pyro,bench]
EXTRAS_docs := [docs]

$(VENV)/.base $(VENV)/.test $(VENV)/.bench $(VENV)/.docs: $(VENV)/.%: pyproject.toml setup.py constraints.txt | $(BIN)/python
	@echo "Installing ppl_gen$(EXTRAS_$*) into $(VENV) (a few minutes the first time)"
	@$(PIP) install -c constraints.txt -e '.$(EXTRAS_$*)'
	@touch $@

$(BIN)/python:
	@for python in "$${PYTHON:-}" python3.11 python3 python python3.12 python3.13; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	    echo "Making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with its venv module was found; name one: make PYTHON=/path/to/python" >&2; exit 1

.PHONY: help demo test lint bench calibration parity docs dist clean
