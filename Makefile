# `make` alone lists the targets.
PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help compile clean check lint types test theory benchmark golden schema gallery ceiling

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

compile:  ## compile the decode loop in place (mypyc, a C compiler); without, it runs interpreted
	$(PYTHON) setup.py --quiet build_ext --inplace

clean:  ## remove what was compiled and built
	rm -rf build dist
	find scheduler -name '*.so' -delete -o -name '*.stamp' -delete

check: lint types  ## ruff and mypy, as CI runs them

lint:  ## ruff: rules and formatting
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:  ## mypy --strict
	$(PYTHON) -m mypy

test:  ## the CPU test suite
	$(PYTHON) -m pytest

gpu-test:  ## the tests that need a CUDA GPU
	$(PYTHON) -m pytest -m gpu

theory:  ## every exact queueing case with the full acceptance rule (minutes)
	$(PYTHON) -m pytest -m slow tests/theory

nightly:  ## property tests on fresh examples, thousands each
	HYPOTHESIS_PROFILE=nightly $(PYTHON) -m pytest tests/engine tests/workload

benchmark:  ## speed figures; never a gate
	$(PYTHON) -m evidence.benchmarks.loop_speed
	$(PYTHON) -m evidence.benchmarks.cli_speed
	$(PYTHON) -m evidence.benchmarks.memory

golden:  ## renew the golden cards, README's card and the list of modules after a change that is meant
	GRAPHPOOL_REWRITE_GOLDEN=1 $(PYTHON) -m pytest -q tests/test_golden.py tests/test_docs.py tests/test_readme.py

schema:  ## rewrite workloads/workload.schema.json
	$(PYTHON) -m scheduler.workload.file.json_schema > workloads/workload.schema.json

images:  ## redraw the README's picture
	$(PYTHON) -m evidence.pool_ceiling.vllm

gallery:  ## redraw docs/gallery
	$(PYTHON) -m evidence.gallery

ceiling:  ## print the tables of docs/pool_ceiling.md and redraw its figure
	$(PYTHON) -m evidence.pool_ceiling.page
	$(PYTHON) -m evidence.pool_ceiling.page figure
