# The words of this project: make demo, test, test-fast, test-cluster, lint, bench, bench-serving, bench-cluster, fuzz, docs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# A worker more than there are cores (tests/conftest.py), at most four, for some tests start processes of their own. The
# cases of a file share what is costly to set up, so they go to one worker; files with slow cases go first.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-cluster lint bench bench-serving bench-cluster fuzz docs stubs
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## the whole chain, from training to the report, in runs/demo
	@$(BIN)/splitleak demo

test: $(STAMP)  ## all tests, and the examples in docstrings
	$(PYTEST)

test-fast: $(STAMP)  ## without the cases marked slow; lists what took over a second all the same
	$(PYTEST) -m "not slow" --durations=0 --durations-min=1

# An environment of its own, which has what .venv has, and Ray: a suite that finds that takes minutes more.
# s3fs is named, too, so that pip chooses it before moto: both need botocore, and s3fs takes few versions of it.
CLUSTER := $(VENV)/cluster
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))

$(CLUSTER)/.installed: $(STAMP)
	$(BIN)/python -m venv $(CLUSTER)
	$(BIN)/python -c '$(PURELIB)' > "$$($(CLUSTER)/bin/python -c '$(PURELIB)')/parent.pth"
	$(CLUSTER)/bin/python -m pip install --quiet --disable-pip-version-check --progress-bar off -e '.[ray,s3]' s3fs 'moto[server]>=5'
	@touch $@

test-cluster: $(CLUSTER)/.installed  ## nodes of Ray that are killed, and a store in S3; the first time it installs these, 400 MB
	$(CLUSTER)/bin/python -m pytest tests/eval/campaign/test_on_ray.py tests/eval/campaign/test_remote.py tests/integration/test_machines.py

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
	$(BIN)/python -m tests.bench.watching
	$(BIN)/python -m tests.bench.bookkeeping

bench-serving: $(STAMP)  ## our service beside a socket, KServe, MLServer and Triton; the first time it installs these, 1.4 GB
	$(BIN)/python -m tests.bench.serving

bench-cluster: $(CLUSTER)/.installed  ## what Ray adds to the jobs of a campaign
	$(CLUSTER)/bin/python -m tests.bench.ray_overhead

fuzz: $(STAMP)  ## 100,000 malformed messages against a running server, 10,000 damaged files for each reader
	$(BIN)/python -m tests.bench.fuzz
	$(BIN)/python -m tests.bench.fuzz_files

docs: $(VENV)/.docs-installed  ## the documentation, in site/; a broken link is an error
	$(BIN)/mkdocs build --strict

$(VENV)/.docs-installed: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --progress-bar off -e '.[docs]'
	@touch $@

stubs: $(STAMP)  ## regenerate splitleak/wire/protocol/pb from proto/
	$(BIN)/python proto/generate.py
