# Everything runs in .venv, built from pyproject.toml; only Python >= 3.11 and make are needed.
PYTHON ?= python3
VENV ?= .venv
# Installed first and at one version: it is the build that the published figures were made with.
TORCH ?= torch==2.13.0

PROBLEM ?= poisson2d
STEPS ?= 1000
SEED ?= 0
ARGS ?=
NAMES ?= first

BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help train test bench scaling lint types imports check docs reproduce figures clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

train: $(VENV)/.installed ## train PROBLEM for STEPS steps on the simulator
	$(BIN)/pintac train $(PROBLEM) --steps $(STEPS) --seed $(SEED) $(ARGS)

test: $(VENV)/.installed-dev ## run the tests
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed-dev ## host speed: simulated steps against PyTorch (some 8 minutes)
	$(BIN)/python benchmarks/step_ratio.py $(ARGS)

scaling: $(VENV)/.installed-dev ## host speed and memory over rows, widths and depths (some 10 minutes)
	$(BIN)/python benchmarks/scaling.py $(ARGS)

lint: $(VENV)/.installed-dev ## ruff
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## mypy
	$(BIN)/mypy

imports: $(VENV)/.installed-dev ## the import contract
	$(BIN)/lint-imports

check: lint types imports test ## everything that CI checks

docs: $(VENV)/.installed-dev ## regenerate the generated pages in docs/
	$(BIN)/python tools/generate_docs.py

reproduce: $(VENV)/.installed-dev ## run the experiments NAMES (default: first) as far as their runs are missing
	$(BIN)/pintac reproduce $(NAMES) $(ARGS)

figures: $(VENV)/.installed-dev ## tables and figures of the runs in docs/results
	$(BIN)/pintac reproduce --render > /dev/null

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks build dist
