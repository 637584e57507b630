# make demo | test | serve | bench. Only Python 3.11+ and make are assumed; `make PYTHON=python3.12 demo` picks one.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test serve bench setup clean

demo: setup
	@$(BIN)/python -m deepergatgnn.service.operations.demo

test: setup
	@$(BIN)/python -m pytest

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
