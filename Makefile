# Every command of the project. `make` alone lists them.
PYTHON ?= python3
ARGS ?=
VENV := .venv
LOCK := requirements/locked.txt
# The newest other interpreter (>= 3.12), on PATH or under pyenv; empty if none.
NEWEST := $(shell .ci/newest-python)

# What `make pod-check` writes, for docs/devices.md.
POD_ROWS := experiments/results/pod_check.jsonl
TPU_PYTHON := .venv-tpu/bin/python

# Where `make figures` puts what README.md and the documentation show.
FIGURES := docs/figures

.PHONY: help setup demo theory figures benchmarks docs serve-docs test test-slow \
  test-newest pod-check lint format lock clean

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed ## Create .venv with the locked requirements and this project

demo: setup ## Train with and without teaching on real data (3 minutes); ARGS="--help"
	$(VENV)/bin/python -m experiments demo $(ARGS)

theory: setup ## Check the theory's claims, in eight figures (3 minutes); ARGS="--help"
	$(VENV)/bin/python -m experiments kernel-convergence $(ARGS)

figures: setup ## Draw the figures of the README and the documentation (40 minutes)
	rm -rf runs/figures
	$(VENV)/bin/python -m experiments demo --preset full --out runs/figures/demo
	$(VENV)/bin/python -m experiments kernel-convergence --out runs/figures/kernel
	$(VENV)/bin/python -m experiments inr --preset full --out runs/figures/inr
	set -e; for figure in runs/figures/*/*.png; do \
	  cp $$figure $(FIGURES)/$$(basename $$(dirname $$figure))_$$(basename $$figure); \
	done

benchmarks: setup ## Measure speed as ratios, on an idle machine
	$(VENV)/bin/python -m experiments.benchmarks.selection_overhead
	$(VENV)/bin/python -m experiments.benchmarks.scoring_throughput
	$(VENV)/bin/python -m experiments.benchmarks.ntk_refresh
	$(VENV)/bin/python -m experiments.benchmarks.loop_overhead
	$(VENV)/bin/python -m experiments.benchmarks.loop_overhead --experiment inr
	$(VENV)/bin/python -m experiments.benchmarks.selective_step
	$(VENV)/bin/python -m experiments.benchmarks.scaling
	$(VENV)/bin/python -m experiments.benchmarks.checkpoint_stall
	$(VENV)/bin/python -m experiments.benchmarks.antk
	$(VENV)/bin/python -m experiments.benchmarks.peers

# The TPU's compiler is large and not locked, so it has an environment of its own.
pod-check: .venv-tpu/.installed ## Compile for a TPU slice that is not here (20 minutes)
	rm -f $(POD_ROWS)
	$(TPU_PYTHON) -m experiments plan demo --topology v5e:4x4 --out $(POD_ROWS)
	$(TPU_PYTHON) -m experiments plan pod-size --topology v5e:4x4 --out $(POD_ROWS)

docs: setup ## Build the documentation into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet

serve-docs: setup ## Serve the documentation on localhost:8000 and rebuild on changes
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs serve

test: setup ## Run the test suite
	$(VENV)/bin/python -m pytest $(ARGS)

test-slow: setup ## Run the tests that the suite leaves out for their time
	$(VENV)/bin/python -m pytest -m slow $(ARGS)

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

format: setup ## Format, and fix what can be fixed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# The lock file holds names, versions and hashes, and no index address.
lock: setup ## Lock the requirements for every Python and platform; ARGS=--upgrade
	$(VENV)/bin/uv pip compile pyproject.toml \
	  --extra experiments --extra theory --extra llm --extra docs --extra dev \
	  --universal --python-version 3.11 --fork-strategy requires-python \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --no-emit-find-links --quiet --output-file $(LOCK) $(ARGS)

clean: ## Remove environments, caches and site/ (never runs/)
	rm -rf .venv .venv-newest .venv-tpu .pytest_cache .ruff_cache .hypothesis site

.venv-tpu/.installed: pyproject.toml
	$(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/pip install --quiet -e '.[experiments,tpu]'
	@touch $@

# The lock file lists every package with its dependencies: pip resolves nothing.
$(VENV)/.installed: $(LOCK) pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "attent-jax needs Python >= 3.11; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-deps --require-hashes -r $(LOCK)
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
