# Everything a newcomer types.  Needs Python 3.11, git and make; the rest installs itself into .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PYTHONPATH := $(CURDIR)
# Every stage and every site is a process of its own: the code is compiled once for all of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup site coordinator demo ui federation test lint bench docs lock clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(READY) ## Install the locked environment into .venv

# Everything into .venv from a hashed list, without a second resolution: pip knows no override.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Folkmoot needs Python 3.11: install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing the locked packages (once; a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --no-deps -r $(1)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
endef

$(READY): requirements/lock.txt requirements/uv.txt pyproject.toml
	$(call install,requirements/lock.txt)
	@touch $@

site: ## Install what a real site runs, and nothing else, into .venv
	$(call install,requirements/site.txt)

coordinator: ## Install what a coordinator runs, with PostgreSQL and S3, into .venv
	$(call install,requirements/coordinator.txt)

demo: $(READY) ## Train over four sites through Airflow and show what came of it
	@$(BIN)/python -m pipelines.demo run

ui: $(READY) ## Open Airflow and MLflow on loopback
	@$(BIN)/python -m pipelines.demo ui

federation: $(READY) ## A coordinator and three sites on this machine, kept apart; shows what left them
	@$(BIN)/python -m benchmarks.federation

test: $(READY) lint ## Run all checks and tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(READY) ## Measure everything the README claims
	@$(BIN)/python -m benchmarks

docs: $(READY) ## Write the reference pages that are made from the code
	@$(BIN)/folkmoot params reference --write docs/reference

COMPILE := uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --python-version 3.11
lock: ## Resolve pyproject.toml anew into requirements/
	@$(BIN)/$(COMPILE) --extra coordinator --extra site --extra worker --extra postgres --extra s3 \
		--extra ckks --extra mpc --group dev pyproject.toml --upgrade --output-file requirements/lock.txt
	@$(BIN)/$(COMPILE) --extra site --extra worker --extra s3 --group build \
		--constraint requirements/lock.txt pyproject.toml --output-file requirements/site.txt
	@$(BIN)/$(COMPILE) --extra coordinator --extra postgres --extra s3 --group build \
		--constraint requirements/lock.txt pyproject.toml --output-file requirements/coordinator.txt

clean: ## Remove the demo's workspace (sites, runs, MLflow); the environment stays
	@rm -rf .folkmoot
