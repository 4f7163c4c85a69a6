# make run            the main job: set-up, training, samples, free energy, dump file (about three minutes after set-up)
# make test           the test suite, without the slow repeats of what a short test covers (seven minutes on two cores)
# make test-slow      those, which the commits are checked with, too
# make test-all       both
# make lint           ruff and mypy
# make bench          every benchmark in tests/benchmarks
# make physics        the long physical validation
# make docs          the pages as a site in build/docs, warnings as errors
# make same BEFORE=F  whether this checkout gives the numbers of the one in F, to the last bit (three minutes)
# make compatibility  the table of pair styles in docs/what_works.md, measured anew (some minutes)
# make faults         a hundred random kills, each resumed (KILLS=100)
# make containers     the build steps of the container images, in a clean environment (downloads everything once)
# make clean          remove the environment and the caches; runs stay

PYTHON ?= python3
SCRIPT ?= inputs/in.mw_cubic
REP ?= 2 2 2
OUT ?= runs/$(patsubst in.%,%,$(notdir $(SCRIPT)))
ARGS ?=
KILLS ?= 100

BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test test-slow test-all lint docs same bench physics compatibility faults containers clean
.DELETE_ON_ERROR:

run: $(READY)
	@if [ -d "$(OUT)" ] && [ -n "$$(ls -A "$(OUT)")" ]; then \
	  echo "make run: expected a new folder but $(OUT) holds an earlier run, which is never overwritten."; \
	  echo "  another run:       make run OUT=$(OUT)-2"; \
	  echo "  continue that one: $(BIN)/lammps-bg run -in $(SCRIPT) -rep $(REP) -out $(OUT) --resume"; \
	  exit 2; \
	fi
	$(BIN)/lammps-bg run -in $(SCRIPT) -rep $(REP) -out $(OUT) $(ARGS)

# a file of tests at a time on each core, the many quick ones of tests/unit last; torch with one thread
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
BATCH := not physics and not faults and not containers

test: $(READY)
	$(PYTEST) $(ARGS)

test-slow: $(READY)
	$(PYTEST) -m "slow and $(BATCH)" $(ARGS)

test-all: $(READY)
	$(PYTEST) -m "$(BATCH)" $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m sphinx -W -q -c docs . build/docs

same: $(READY)
	$(BIN)/python tests/acceptance/same_numbers.py $(BEFORE) . $(ARGS)

bench: $(READY)
	@for file in tests/benchmarks/bench_*.py; do \
	  echo "== $$file"; \
	  $(BIN)/python "$$file" || exit 1; \
	done

physics: $(READY)
	$(BIN)/python -m pytest -m physics $(ARGS)

compatibility: $(READY)
	$(BIN)/python tests/compatibility/table.py $(ARGS)

faults: $(READY)
	$(BIN)/python -m pytest tests/faults -m faults --kills $(KILLS) $(ARGS)

containers: $(READY)
	$(BIN)/python -m pytest -m containers $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again when the dependencies or their tested versions change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("make: expected Python 3.10 or later, " + sys.executable + " is " + sys.version.split()[0] + "; use make PYTHON=python3.x" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,docs,ovito,plot]" --constraint constraints.txt
	@touch $@
