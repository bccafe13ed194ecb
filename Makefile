# `make` alone lists the targets.
PYTHON ?= python

.DEFAULT_GOAL := help
.PHONY: help check lint types test theory benchmark golden schema gallery

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

check: lint types  ## ruff and mypy, as CI runs them

lint:  ## ruff: rules and formatting
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:  ## mypy --strict
	$(PYTHON) -m mypy

test:  ## the CPU test suite
	$(PYTHON) -m pytest

theory:  ## every exact queueing case with the full acceptance rule (minutes)
	$(PYTHON) -m pytest -m slow tests/theory

benchmark:  ## speed figures; never a gate
	$(PYTHON) tests/benchmarks/loop_speed.py

golden:  ## rewrite the golden cards after a change that is meant
	GRAPHPOOL_REWRITE_GOLDEN=1 $(PYTHON) -m pytest tests/test_golden.py

schema:  ## rewrite workloads/workload.schema.json
	$(PYTHON) -m scheduler.workload.json_schema

gallery:  ## redraw docs/gallery
	$(PYTHON) docs/gallery.py
