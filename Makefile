# make demo          record, train, compare, report (about ten minutes on two cores)
# make demo PRESET=debug   the same in under a minute, with numbers too small to mean anything
# make test          the test suite
# make lint          style and formatting
# make typecheck     types
# make setup         only the environment

PYTHON ?= python3
VENV ?= .venv
PRESET ?= demo
JOBS ?= 2

BIN := $(VENV)/bin
# pyright runs on node: take the machine's, or install one with pip.
EXTRAS := $(if $(shell command -v node),dev,dev,node)
STAMP := $(VENV)/.installed

# A blocked OpenMP thread sleeps instead of spinning, so that two processes can share two cores.
export OMP_WAIT_POLICY = PASSIVE
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1

.PHONY: demo test lint typecheck setup
.DEFAULT_GOAL := demo

demo: setup
	$(BIN)/loopwm demo $(PRESET)

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=25

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: setup
	$(BIN)/pyright --pythonpath $(BIN)/python

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("loopwm needs Python 3.11 or newer, this is %d.%d; choose another with make PYTHON=python3.11." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@
