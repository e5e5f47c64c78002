# Two commands matter: `make demo` and `make test`. Both make .venv when it is missing or out of date.

VENV := .venv
RUNTIME := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.installed-dev

# The first interpreter that is new enough and can make virtual environments.
FIND_PYTHON := for python in python3.11 python3; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done
PYTHON ?= $(shell $(FIND_PYTHON))

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check constraints clean

help:
	@echo "make demo         install, then run the whole line on example data into demo/"
	@echo "                  (DATA=/folder make demo runs it on your own archive)"
	@echo "make test         install, then run the gate: format, lint, types, layers, tests"
	@echo "                  (DICOMDATA_PROFILE=thorough make test adds the long runs)"
	@echo "make check        the same gate"
	@echo "make .venv        only install, for development"
	@echo "make constraints  pin what .venv holds now into constraints.txt"
	@echo "make clean        remove what was made here, but for .venv"
	@echo "PYTHON=python3.12 make ... chooses the interpreter for a new .venv"

demo: $(RUNTIME)
	$(VENV)/bin/python scripts/demo.py

test check: $(DEVELOPMENT)
	@scripts/check

.PHONY: $(VENV)
$(VENV): $(DEVELOPMENT)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later with venv is needed" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing dicomdata and what it needs (minutes the first time: PyTorch is large)"
	@$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing dicomdata, what it needs and what its tests need (minutes the first time)"
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(RUNTIME) $@

constraints: $(DEVELOPMENT)
	@sed -n '/^#/p' constraints.txt > $(VENV)/constraints.txt
	@$(PIP) freeze --all --exclude pip --exclude-editable \
		| sed 's/+[a-z0-9.]*$$//' >> $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt

clean:
	rm -rf demo build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
