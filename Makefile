# make demo         the whole loop on a real RecoGym log: fit, posterior, policies, A/B test (writes demo-output/)
# make test         lint, types, unit tests and doctests
# make test-lowest  the unit tests on the lowest releases that pyproject.toml allows, on Python 3.11 (torch's is of several GB)
# make test-distributed  fits by several workers, which torchrun and Ray start, in an environment with Ray
# make notebooks    run every notebook from a clean kernel (writes notebooks/executed/)
# make mutants      change a line at a time and list what no test notices: docs/mutants.md (MODULES=blob_pyro/infer SAMPLE=12)
# make docs         the documentation site, a warning is an error (writes docs/_build/index.html)
# make benchmarks   what is fast, against what
# make lock         pin what pyproject.toml allows, with hashes; UPGRADE=--upgrade takes the newest releases
#
# With PYTHON=python3.13 any of them runs on that Python, in an environment of its own. Environments hold what .ci/*.txt
# list, each file checked against its hash; nothing is resolved at install.
PYTHON ?= python3.11
TORCH  ?= 2.13.0
SERIES := $(shell $(PYTHON) -c 'import sys; print("{}.{}".format(*sys.version_info))')
VENV   := $(if $(filter 3.11,$(SERIES)),.venv,.venv-$(SERIES))
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
LOWEST := .venv-lowest
MUTANTS := .venv-mutants
DISTRIBUTED := .venv-distributed
DOCS   := .venv-docs
PURELIB := 'import sysconfig; print(sysconfig.get_path("purelib"))'

.DEFAULT_GOAL := test
.PHONY: demo test lint types unit test-slow test-cuda test-distributed test-lowest mutants notebooks docs benchmarks lock clean

# $(call environment,PYTHON,FOLDER,NAME): a virtual environment of what .ci/NAME.txt lists, and of this package, editable.
# torch comes without CUDA where pip finds such a build, else with CUDA's libraries.
define environment
	$(if $(SERIES),,$(error $(PYTHON) does not run: name another with PYTHON=))
	$(1) -m venv $(2)
	$(2)/bin/python -m pip install $(PIP) --require-hashes --requirement .ci/build.txt
	test ! -f .ci/$(3)-cpu.txt || $(2)/bin/python -m pip install $(PIP) --require-hashes --requirement .ci/$(3)-cpu.txt \
	  || echo 'pip finds no such torch here: taking the one on PyPI.'
	$(2)/bin/python -m pip install $(PIP) --require-hashes --requirement .ci/$(3).txt
	! $(2)/bin/python -m pip show torch | grep '^Requires:.*nvidia' > /dev/null \
	  || $(2)/bin/python -m pip install $(PIP) --require-hashes --requirement .ci/$(3)-cuda.txt
	$(2)/bin/python -m pip install $(PIP) --editable .
	touch $(2)/.ready
endef
PIP := --quiet --disable-pip-version-check --no-deps --no-build-isolation

# Rebuilt only when the project's declaration or its pins change.
$(READY): pyproject.toml .ci/build.txt $(wildcard .ci/locked*.txt)
	$(call environment,$(PYTHON),$(VENV),locked)

$(LOWEST)/.ready: pyproject.toml .ci/build.txt $(wildcard .ci/lowest*.txt)
	$(call environment,python3.11,$(LOWEST),lowest)

$(MUTANTS)/.ready: .ci/build.txt .ci/mutants.txt
	$(PYTHON) -m venv $(MUTANTS)
	$(MUTANTS)/bin/python -m pip install $(PIP) --require-hashes --requirement .ci/build.txt
	$(MUTANTS)/bin/python -m pip install $(PIP) --require-hashes --requirement .ci/mutants.txt
	touch $(MUTANTS)/.ready

demo: $(READY)
	$(BIN)/blob-pyro demo --output demo-output

# mypy has one process: beside the tests, it leaves no core idle.
test: lint
	$(MAKE) --no-print-directory --jobs=2 types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest --numprocesses 2 --dist worksteal

test-cuda: $(READY)
	$(BIN)/python -m pytest -m cuda

# What .venv has, and beside it Ray.
$(DISTRIBUTED)/.ready: $(READY) .ci/distributed.txt
	$(BIN)/python -m venv --clear $(DISTRIBUTED)
	$(BIN)/python -c $(PURELIB) > "$$($(DISTRIBUTED)/bin/python -c $(PURELIB))/beside.pth"
	$(DISTRIBUTED)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement .ci/distributed.txt
	touch $@

test-distributed: $(DISTRIBUTED)/.ready
	$(DISTRIBUTED)/bin/python -m pytest -m distributed

# A copy of the package is changed, in mutants/; a run that was stopped goes on.
mutants: $(READY) $(MUTANTS)/.ready
	PATH="$(CURDIR)/$(MUTANTS)/bin:$$PATH" $(BIN)/python .ci/mutants.py --sample $(or $(SAMPLE),12) $(MODULES)

notebooks: $(READY)
	mkdir -p notebooks/executed
	$(BIN)/jupyter execute --output='executed/{notebook_name}' notebooks/*.ipynb

# What .venv has, and beside it what only the site needs.
$(DOCS)/.ready: $(READY) .ci/docs.txt
	$(BIN)/python -m venv --clear $(DOCS)
	$(BIN)/python -c $(PURELIB) > "$$($(DOCS)/bin/python -c $(PURELIB))/beside.pth"
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement .ci/docs.txt
	touch $@

docs: $(DOCS)/.ready
	$(DOCS)/bin/python -m sphinx -b html --fail-on-warning --keep-going docs docs/_build

benchmarks: $(READY)
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

lock:
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$(CURDIR)/.venv-lock/bin:$$PATH" .ci/lock uv $(TORCH) $(UPGRADE)

clean:
	rm -rf .venv .venv-* demo-output notebooks/executed mutants docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache
