# Everything a newcomer needs: `make demo` and `make test`; both make .venv by themselves.
.PHONY: help setup demo test test-slow test-e2e test-scale check wheel format bench schemas docs clean
.DEFAULT_GOAL := help

# The first Python that is new and old enough; set PYTHON to choose another.
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): constraints.txt pyproject.toml contracts/pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 is needed; set PYTHON to one"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ./contracts -e '.[dev]'
	@# ib_async and ib_insync need different modules of one name: the tests of the former see this folder first.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt --no-deps \
		--target $(VENV)/ib_async ib_async aeventkit
	@touch $@

setup: $(STAMP) ## Make .venv with everything installed

demo: $(STAMP) ## A backfill against the bundled sandbox vendor, checked and shown; no account needed
	$(BIN)/python tools/demo.py

test: $(STAMP) ## All tests but the slow ones
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not operations and not e2e and not scale"

test-slow: $(STAMP) ## The slow tests: memory and kill -9 in earnest
	$(BIN)/python -m pytest -m "slow and not e2e and not scale"

test-e2e: $(STAMP) ## Prefect: limits, deployments, stopping; then all from end to end, with a screenshot when Chromium is there
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "operations and not slow"
	$(BIN)/python -m pytest -m e2e

test-scale: $(STAMP) ## PostgreSQL and Redis with two workers, and Dask; needs postgres and redis-server
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dask,redis]'
	$(BIN)/python -m pytest -m scale

check: $(STAMP) ## Lint, format, types, import rules, schema and document drift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/schemas.py --check
	$(BIN)/python tools/compatibility.py
	$(BIN)/python tools/environment_docs.py --check

wheel: $(STAMP) ## The contracts wheel alone in an empty environment; WHEEL_DATA=ROOT tries it on a data root
	$(BIN)/python tools/wheel_check.py $(if $(WHEEL_DATA),--data "$(WHEEL_DATA)")

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP) ## Speed and memory, side by side with the alternatives
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/validate.py
	$(BIN)/python benchmarks/reader.py
	$(BIN)/python benchmarks/replay.py
	$(BIN)/python benchmarks/capture.py
	$(BIN)/python benchmarks/pacing.py
	$(BIN)/python benchmarks/bars_plan.py
	$(BIN)/python benchmarks/prefect_overhead.py

schemas: $(STAMP) ## Generate the JSON Schemas from the models
	$(BIN)/python tools/schemas.py

docs: $(STAMP) ## Generate docs/ENVIRONMENT.md from the settings
	$(BIN)/python tools/environment_docs.py

clean: ## Remove what the demo and the tests left; .venv stays
	rm -rf demo-data .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
