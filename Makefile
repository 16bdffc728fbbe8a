# Everything a person runs. `make` alone lists the targets.
PYTHON ?= python3
ARGS ?=
VENV := .venv
LOCK := requirements/locked.txt
# The newest other interpreter (>= 3.12), on PATH or under pyenv; empty if none.
NEWEST := $(shell .ci/newest-python)

FIGURES := experiments/figures

.PHONY: help setup demo theory figures benchmarks test test-newest lint format lock clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed ## Create .venv with the locked requirements and this project

demo: setup ## Train with and without teaching on real data (3 minutes); ARGS="--help"
	$(VENV)/bin/python -m experiments demo $(ARGS)

theory: setup ## What the attention NTK does, in eight figures (3 minutes); ARGS="--help"
	$(VENV)/bin/python -m experiments kernel-convergence $(ARGS)

figures: setup ## Make the README's figures again (6 minutes)
	rm -rf runs/figures
	$(VENV)/bin/python -m experiments demo --out runs/figures/demo
	$(VENV)/bin/python -m experiments kernel-convergence --out runs/figures/kernel
	set -e; for figure in runs/figures/*/*.png; do \
	  cp $$figure $(FIGURES)/$$(basename $$(dirname $$figure))_$$(basename $$figure); \
	done

benchmarks: setup ## Speed, as ratios: selection, steps, devices, checkpoints, the ANTK, peers
	$(VENV)/bin/python -m experiments.benchmarks.selection_overhead
	$(VENV)/bin/python -m experiments.benchmarks.scoring_throughput
	$(VENV)/bin/python -m experiments.benchmarks.loop_overhead
	$(VENV)/bin/python -m experiments.benchmarks.selective_step
	$(VENV)/bin/python -m experiments.benchmarks.scaling
	$(VENV)/bin/python -m experiments.benchmarks.checkpoint_stall
	$(VENV)/bin/python -m experiments.benchmarks.antk
	$(VENV)/bin/python -m experiments.benchmarks.peers

test: setup ## Run the test suite
	$(VENV)/bin/python -m pytest $(ARGS)

test-newest: ## Run the suite on the newest jax line (needs Python >= 3.12)
ifeq ($(NEWEST),)
	@echo "test-newest: no Python >= 3.12 found, so the newest jax line is not tested"
else
	$(MAKE) test VENV=.venv-newest PYTHON=$(NEWEST)
endif

lint: setup ## Check format, style and types
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

format: setup ## Format and mend what can be mended
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lock: setup ## Resolve the requirements anew, for every Python and platform
	$(VENV)/bin/uv pip compile pyproject.toml --extra experiments --extra theory --extra dev \
	  --universal --python-version 3.11 --fork-strategy requires-python --upgrade \
	  --generate-hashes --no-header --no-annotate --quiet --output-file $(LOCK)

clean: ## Remove the environments and caches (never runs/)
	rm -rf .venv .venv-newest .pytest_cache .ruff_cache .hypothesis

# The packages are locked with their whole closure: nothing is left to resolve.
$(VENV)/.installed: $(LOCK) pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attent-jax needs Python >= 3.11; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-deps --require-hashes -r $(LOCK)
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
