# make demo         the whole loop on a real RecoGym log: fit, posterior, policies, A/B test (writes demo-output/)
# make test         lint, types, unit tests and doctests
# make notebooks    run every notebook from a clean kernel (writes notebooks/executed/)
# make benchmarks   what is fast, against what
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIN    := .ci/constraints.txt
READY  := $(VENV)/.ready

.DEFAULT_GOAL := test
.PHONY: demo test lint types unit test-slow test-cuda notebooks benchmarks lock clean

# Rebuilt only when the project's declaration or its pins change.
$(READY): pyproject.toml $(PIN)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PIN) torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(PIN) --editable '.[dev,notebooks,recogym]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps recogym==0.1.3.0
	touch $@

demo: $(READY)
	$(BIN)/blob-pyro demo --output demo-output

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest --numprocesses 2

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-cuda: $(READY)
	$(BIN)/python -m pytest -m cuda

notebooks: $(READY)
	mkdir -p notebooks/executed
	$(BIN)/jupyter execute --output='executed/{notebook_name}' notebooks/*.ipynb

benchmarks: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

# Take the newest releases that pyproject.toml allows, and pin what the tests then run on.
lock:
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev,notebooks,recogym]'
	{ echo "# What 'make' installs, pinned: Python 3.11 on Linux. Written by 'make lock'."; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' ; } > $(PIN)

clean:
	rm -rf $(VENV) demo-output notebooks/executed .pytest_cache .mypy_cache .ruff_cache
