# `make demo` and `make test` are all that a fresh machine needs: both make the environment first.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# A change to these needs the package to be built anew.
NATIVE := $(wildcard dist_oaa/attention/native*.cpp dist_oaa/attention/native*.h)
# Two processes with one thread each share two cores; more threads only get in each other's way.
DEMO_RANKS ?= 2
# Test files side by side: one more than two cores, since many tests wait for processes of theirs.
TEST_JOBS ?= 3

.PHONY: env demo sweep-demo test test-fast test-fresh lint bench chaos docs clean

env: $(READY)

$(READY): setup.py constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,crf,export,lightning,report,smp,sweep,weights]'
	@touch $(READY)

demo: env
	@test -d demo-data || $(BIN)/oaa data demo demo-data
	$(BIN)/oaa pipeline --config configs/demo/pipeline.yaml --workers $(DEMO_RANKS)

sweep-demo: env
	@test -d demo-data || $(BIN)/oaa data demo demo-data
	$(BIN)/oaa tune --config configs/sweep/demo.yaml $(if $(wildcard runs/sweep-demo/trials),--resume)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS)

# As `make test`, with a new interpreter for each process, which takes longer: before a release.
test-fresh: env
	OAA_TEST_FRESH=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS)

test-fast: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_JOBS) -m "not slow and not gpu"

# Leave the machine alone while it runs.
bench: env
	$(BIN)/python tools/bench.py

fuzz: env
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz_input.py

docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open site/index.html"

# Attacks runs 200 times and compares what they end with: about half an hour on two cores.
CHAOS_SEED ?= 0
chaos: env
	OMP_NUM_THREADS=1 $(BIN)/python tools/chaos.py --points 200 --seed $(CHAOS_SEED)

clean:
	rm -rf .venv demo-data runs build *.egg-info bench.json chaos.json dist_oaa/attention/*.so
