# One command per chore. CI calls the same ones.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test e2e lint format types imports bench-env clean

help:  ## list the chores
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/.simulate: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[all]'
	touch $@

.venv/.dev: .venv/.simulate
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	touch $@

demo: .venv/.simulate  ## set up and run the main job: a private federation on real writing
	$(BIN)/locavore simulate $(ARGS)

test: .venv/.dev lint types imports  ## set up and pass the tests
	$(BIN)/pytest $(ARGS)

e2e: .venv/.dev  ## a deployed federation in which everything goes wrong, with real processes
	$(BIN)/pytest tests/e2e $(ARGS)

lint: .venv/.dev  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.dev  ## rewrite to style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.dev  ## static types
	$(BIN)/mypy

imports: .venv/.dev  ## rooms import one way
	PYTHONPATH=.links $(BIN)/lint-imports

bench-env:  ## the benchmarks' peers, in an environment of their own
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check onnxruntime-genai==0.18.0
	$(PYTHON) -m venv .venv-bench/pfl
	.venv-bench/pfl/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 \
		'transformers>=5.23,<5.24' scipy packaging multiprocess dp-accounting==0.4.4 prv-accountant
	.venv-bench/pfl/bin/pip install --quiet --disable-pip-version-check --no-deps pfl==0.6.0
	mkdir -p .venv-bench/node
	cd .venv-bench/node && npm i --ignore-scripts --no-fund --no-audit \
		node-llama-cpp @node-llama-cpp/linux-x64

clean:  ## remove what was built here
	rm -rf .venv .venv-bench build dist *.egg-info
