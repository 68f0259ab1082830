# `make demo` is the first thing to run; `make help` lists the rest.
# Everything is installed into .venv, once, from the exact versions in requirements.lock.

PYTHON ?= python3
# Two at a time: half of the tests wait for processes of their own. More would compete with these for the processor.
PYTEST_ARGS ?= -x -n 2

VENV := .venv
INSTALLED := $(VENV)/.installed
KERNELS := setup.py $(wildcard src/tallystick/exact/native/*.[ch])
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check

.PHONY: help demo test lint format install clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo "  Another interpreter: make demo PYTHON=python3.12"

demo: $(INSTALLED)  ## Install what is missing, then train and verify a model on this machine
	$(VENV)/bin/tallystick demo

test: lint  ## Lint, type-check and run the tests; stops at the first failure
	$(VENV)/bin/pytest $(PYTEST_ARGS)

lint: $(INSTALLED)  ## Check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(INSTALLED)  ## Rewrite the sources in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

install: $(INSTALLED)  ## Only install, into .venv

# The stamp is written last, so an interrupted install starts again. The build backend is in the lock as well
# (torch needs it), hence no build isolation: nothing is fetched that is not pinned.
$(INSTALLED): requirements.lock pyproject.toml $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: tallystick needs Python 3.11 or later; '$(PYTHON)' is missing or older." >&2; \
	  echo "      Name one that fits: make $(or $(firstword $(MAKECMDGOALS)),install) PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Installing into $(VENV), once; PyTorch is large, so the first time takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

clean:  ## Remove what the other targets made, .venv included
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build demo-out src/*.egg-info
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
