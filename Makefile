# The two commands of the README: `make demo` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TORCH ?= torch==2.13.0
DEMO_ITERATIONS ?= 400
PYTEST_ARGS ?=

.PHONY: install demo test test-fast lint format bench bench-quick clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "python >= 3.10 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mmdet,dev]'
	touch $@

demo: install
	rm -rf runs/demo
	$(BIN)/colad train configs/tiny/colad_shapes.py --work-dir runs/demo \
		--set train.max_iterations=$(DEMO_ITERATIONS)

test: install
	$(BIN)/python -m pytest -m 'not gpu' $(PYTEST_ARGS)

test-fast: install
	$(BIN)/python -m pytest -m 'not gpu and not slow and not ray' $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks

bench-quick: install
	$(BIN)/python -m benchmarks --quick

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
