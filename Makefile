# Two commands are enough: `make tune` and `make test`. Both need only Python >= 3.11 with venv, and pip.
PYTHON ?= python3
BIN := .venv/bin
STUDY ?=
BENCH ?= training

.PHONY: help tune test check bench lock clean
help:            ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 10

tune: .venv/.tune   ## Set up, then find good settings: a short study on a CPU, an overnight study on a GPU
	$(BIN)/autotune run $(STUDY)

test: .venv/.dev    ## Set up, then run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/.dev   ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.dev   ## Run a benchmark (BENCH=training, cards, experts, search, costs, spine, report, replay, verdict, own_trainer, transfer, lengths, promotion, recipe, night, mirror, fleet, faults, attrition, paths, threads or structure; ARGS=--append adds it to RESULTS.md)
	$(BIN)/python tests/benchmarks/bench_$(BENCH).py $(ARGS)

lock: .venv/.dev    ## Write the installed versions to constraints.txt
	$(BIN)/python autotune/machine/bootstrap.py --lock constraints.txt

clean:           ## Remove the virtual environment and caches; runs/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info

.venv/.tune: pyproject.toml constraints.txt autotune/machine/bootstrap.py
	$(PYTHON) autotune/machine/bootstrap.py .venv .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt autotune/machine/bootstrap.py
	$(PYTHON) autotune/machine/bootstrap.py .venv '.[dev]'
	@touch $@ .venv/.tune
