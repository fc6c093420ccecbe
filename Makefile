# The usual commands; `make` lists them. Each sets up .venv by itself, .ci/run calls the same ones.
# PYTHON=python3.12 makes .venv anew with that Python; without it, the .venv that is there is used.
VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed$(if $(PYTHON),-$(subst /,_,$(PYTHON)))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo run test lint types format bench bench-quick reconnects soak soak-kills soak-reload build clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: $(STAMP)  ## see it work: a gateway, a client, the manual page's requests
	@$(BIN)/headgate demo

run: $(STAMP)  ## start the example plant's gateway and keep it running
	@$(BIN)/headgate run --name hub --projects examples/plant/projects

test: lint types  ## everything that must pass before a commit
	@echo "== pytest"
	@$(BIN)/pytest

lint: $(STAMP)  ## ruff: format and rules
	@echo "== ruff, with $$($(BIN)/python --version)"
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(STAMP)  ## mypy --strict
	@echo "== mypy"
	@$(BIN)/mypy

format: $(STAMP)  ## let ruff write the format and the simple fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(STAMP)  ## Headgate beside bare prototypes and its peers; writes docs/benchmarks/, 10 minutes
	@$(BIN)/python -m pip install --quiet --group bench
	@$(BIN)/python -m benchmarks --write docs/benchmarks

bench-quick: $(STAMP)  ## a few of its rows, which must not fall under their floors; 30 seconds
	@$(BIN)/python -m benchmarks.quick

reconnects: $(STAMP)  ## 10,000 sessions are cut at once and come back by ticket; 3 minutes
	@$(BIN)/python -m benchmarks.reconnects $(RECONNECTS)

soak: $(STAMP)  ## 20 minutes of load, cut connections and restarts; every request is accounted for
	@$(BIN)/python -m soak $(SOAK)

soak-kills: $(STAMP)  ## 50,000 requests to worker processes, of which 5 % crash or are killed; minutes
	@$(BIN)/python -m soak.kills $(SOAK)

soak-reload: $(STAMP)  ## a thousand edits of handlers while 2,000 requests a second run; 3 minutes
	@HEADGATE_SOAK_EDITS=1000 $(BIN)/pytest -q -s tests/gateway/test_reload_under_load.py

build: $(STAMP)  ## the wheel, into dist/
	@rm -rf dist
	@$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist

clean:  ## remove .venv and everything that was built
	@rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find src tests examples benchmarks soak -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(STAMP): pyproject.toml
	@$(or $(PYTHON),python3) -c 'import sys; v = sys.version.split()[0]; \
	  sys.exit(sys.version_info < (3, 11) and f"Headgate needs Python 3.11 or later, this is {v}: make PYTHON=python3.12 ...")'
	@$(if $(PYTHON),false,$(BIN)/python -m pip --version >/dev/null 2>&1) || \
	  $(or $(PYTHON),python3) -m venv --clear $(VENV)
	@echo "== setting up $(VENV) with $$($(BIN)/python --version); this takes a minute the first time"
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@$(BIN)/python -m pip install --quiet --editable ".[all]" --group dev $(if $(CI),--group bench)
	@touch $(VENV)/.installed $@
