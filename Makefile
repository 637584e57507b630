# make demo | test | unit | lint | serve | bench. Only Python 3.11+ and make are assumed; `make PYTHON=python3.12 demo` picks one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
PROCESSES ?= 2
SHELL := bash
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test unit lint ruff format types layers hooks serve bench setup clean

demo: setup
	@$(BIN)/python -m deepergatgnn.service.operations.demo

# The linters run beside the tests; what they find is printed before the last line of pytest.
test: setup
	@log=$$(mktemp -d); trap 'rm -rf $$log' EXIT; \
	$(MAKE) --no-print-directory --keep-going lint >$$log/lint 2>&1 & lint=$$!; \
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadgroup --no-loadscope-reorder \
		$$(test ! -t 1 || echo --color=yes) | tee $$log/tests; tests=$${PIPESTATUS[0]}; \
	wait $$lint || { cat $$log/lint; tail -n 1 $$log/tests; exit 1; }; \
	exit $$tests

unit: setup
	@$(BIN)/python -m pytest -q -m unit --numprocesses $(PROCESSES)

lint: ruff format types layers

ruff: setup
	@$(BIN)/ruff check .

format: setup
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

layers: setup
	@$(BIN)/lint-imports --no-cache

hooks: setup
	@$(BIN)/pre-commit install

serve: setup
	@exec $(BIN)/deepergatgnn serve --port $(PORT)

bench: setup
	@$(BIN)/python -m benchmarks

setup: $(VENV)/.ready

# torch first, by itself and pinned: a bare `torch` would bring gigabytes of CUDA packages.
$(VENV)/.ready: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[development]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
