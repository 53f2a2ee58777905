# Everything runs in .venv, which the first target that needs it builds.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST_ARGS ?= -n 2

.PHONY: help setup demo test lint format docs bench clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP)  ## build the virtual environment in .venv

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "got $$($(PYTHON) --version), expected Python >= 3.11: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: setup  ## watch a made clip with the bundled model, with all tokens and merged
	$(BIN)/sttm demo

test: setup  ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup  ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## build the documentation into site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict

bench: setup  ## measure the merge operation (nothing else should run)
	$(BIN)/python benchmarks/merge_op.py

clean:  ## remove what the other targets made
	rm -rf .venv site out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
