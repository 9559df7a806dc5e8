# The two commands of the README: `make demo` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
VENV ?= .venv
VENV_OPENMMLAB ?= .venv-openmmlab
BIN = $(VENV)/bin
TORCH ?= torch==2.13.0
DEMO_ITERATIONS ?= 400
PYTEST_ARGS ?=
TEST_WORKERS ?= 2

.PHONY: install demo test test-fast test-faults test-cluster test-openmmlab lint format bench bench-quick clean

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

# Tests that start Ray have the machine for themselves; the others are single-threaded.
test: install
	failed=0; \
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m 'not (gpu or ray or faults)' $(PYTEST_ARGS) || failed=1; \
	$(BIN)/python -m pytest -m 'ray and not (gpu or faults)' $(PYTEST_ARGS) || failed=1; \
	exit $$failed

test-fast: install
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m 'not (gpu or slow or ray or faults)' $(PYTEST_ARGS)

# What happens when processes, nodes and disks fail: docs/reliability.md. MOMENTS=10 for the full matrix.
test-faults: install
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m faults tests/faults $(PYTEST_ARGS)

# The original mmdet, mmengine and mmcv, in an environment of their own. mmcv 2.1.0 has no wheel, and
# its setup.py runs with setuptools < 80 and Python < 3.13. Built in isolation it sees no torch, so it
# gets no operators and needs no compiler. Older pips read the constraints of a build in PIP_CONSTRAINT.
$(VENV_OPENMMLAB)/installed: export PIP_BUILD_CONSTRAINT = constraints-openmmlab.txt
$(VENV_OPENMMLAB)/installed: export PIP_CONSTRAINT = constraints-openmmlab.txt
$(VENV_OPENMMLAB)/installed: pyproject.toml constraints-openmmlab.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13) and "python 3.10 to 3.12 is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV_OPENMMLAB)
	$(VENV_OPENMMLAB)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(VENV_OPENMMLAB)/bin/python -m pip install --quiet --disable-pip-version-check --use-pep517 -e '.[openmmlab,dev]'
	touch $@

test-openmmlab: $(VENV_OPENMMLAB)/installed
	$(VENV_OPENMMLAB)/bin/colad doctor
	$(VENV_OPENMMLAB)/bin/python -m pytest -n $(TEST_WORKERS) -m 'parity or not (gpu or slow or ray or faults)' \
		$(PYTEST_ARGS)

# deploy/cluster.local.yaml over ssh, on machines made of namespaces: as root, with openssh-server.
test-cluster: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mmdet,dev,cluster]'
	$(BIN)/python -m tests.cluster

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
	rm -rf $(VENV) $(VENV_OPENMMLAB) runs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
