# The words of this project: make demo, make test, make lint, make bench, make bench-serving, make fuzz.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench bench-serving fuzz stubs
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## the whole chain, from training to the report, in runs/demo
	@$(BIN)/splitleak demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## timings, apart from the tests: interleaved, medians and ratios
	$(BIN)/python -m tests.bench.step
	$(BIN)/python -m tests.bench.attack_step
	$(BIN)/python -m tests.bench.class_step
	$(BIN)/python -m tests.bench.serving_engine

bench-serving: $(STAMP)  ## our service beside a socket, KServe, MLServer and Triton; the first time it installs these, 1.4 GB
	$(BIN)/python -m tests.bench.serving

fuzz: $(STAMP)  ## 100,000 malformed messages against a running server
	$(BIN)/python -m tests.bench.fuzz

stubs: $(STAMP)  ## regenerate splitleak/wire/protocol/pb from proto/
	$(BIN)/python proto/generate.py
