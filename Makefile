# make repro | test | lint | ui | dashboard | bench; each creates .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test lint ui dashboard bench clean

repro: $(READY)  ## run what is out of date of the whole pipeline
	dvc repro dvc.yaml

test: $(READY) lint  ## linters, types, import layers, then the tests
	OMP_NUM_THREADS=1 python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	ruff format --check .
	ruff check .
	mypy
	lint-imports

ui: $(READY)  ## MLflow's pages over the project's runs, on localhost
	gesturepose ui

dashboard: $(READY)  ## Optuna's pages over the project's studies, on localhost
	python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dashboard]'
	optuna-dashboard --host 127.0.0.1 "$${OPTUNA_STORAGE:-.gesturepose/studies.journal}"

bench: $(READY)  ## speeds as ratios measured in one run → reports/bench
	python -m gesturepose.bench

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=… names another")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
