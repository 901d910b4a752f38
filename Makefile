# `make` lists the targets. Every recipe runs without a hand on the keyboard and says what it is doing.
STATE  ?= .state
LISTEN ?= 127.0.0.1:5000
DRIVER ?= qemu
OPTIONS ?=

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
BIN         := .venv/bin
# Debian's own Python is built with profiles: a third faster than one that is not.
PYTHON      ?= $(firstword $(wildcard /usr/bin/python3.11) python3)
UV          := .cache/uv/bin/uv
SAY         := printf '==> %s\n'
MEMORY      := $(if $(wildcard /dev/shm/.),/dev/shm,/tmp)
export DEBIAN_FRONTEND := noninteractive
export STATE DRIVER
export PYTHONDONTWRITEBYTECODE :=  # bytecode is most of a quick start

.DEFAULT_GOAL := help
.PHONY: help setup setup-ceph up down clean format check test soak rubbish openapi mutate docs figures

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {gsub(/\$$\(STATE\)/, "$(STATE)"); printf "  make %-9s %s\n", $$1, $$2}' Makefile

setup: .venv/.synced .venv/.ready-$(DRIVER) ## install what is missing (a second time: nothing)
	@$(SAY) "setup: everything for --driver $(DRIVER) is there"

$(UV):
	@$(SAY) "setup 1/4: uv, in .cache/uv"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(PYTHON) -P src/pileus/cli/packages.py python3-venv
	@$(PYTHON) -m venv .cache/uv
	@.cache/uv/bin/pip --quiet --disable-pip-version-check install uv

.venv/.synced: pyproject.toml uv.lock | $(UV)
	@$(SAY) "setup 2/4: .venv, exactly what uv.lock names"
	@$(UV) sync --quiet --locked --compile-bytecode --python $(PYTHON)
	@$(BIN)/python -m compileall -q src
	@touch $@

.venv/.ready-fake: .venv/.synced
	@touch $@

.venv/.ready-%: .venv/.synced $(shell grep -rl --include=*.py DEBIAN_PACKAGES src/pileus)
	@$(SAY) "setup 3/4: Debian packages"
	@$(BIN)/python src/pileus/cli/packages.py $$($(BIN)/python -m pileus.cli.needs)
	@$(SAY) "setup 4/4: the test image and noVNC, in ~/.cache/pileus"
	@$(BIN)/python -m pileus.cli.testimage
	@touch $@

.venv/.ready-tests: .venv/.synced $(shell grep -rl --include=*.py DEBIAN_PACKAGES src/pileus/testing)
	@$(SAY) "Debian packages that tests start, and schemathesis"
	@$(BIN)/python src/pileus/cli/packages.py $$($(BIN)/python -m pileus.cli.needs --tests)
	@$(UV) sync --quiet --locked --group rubbish
	@touch $@

setup-ceph: .venv/.synced ## Ceph's commands for hosts with rbd volumes, and a cluster for tests
	@$(SAY) "Debian packages of Ceph"
	@$(BIN)/python src/pileus/cli/packages.py $$($(BIN)/python -m pileus.cli.needs --ceph)

up: setup ## start the cloud in the background and boot a first server
	@$(BIN)/python -m pileus.cli.background up --state $(STATE) --listen $(LISTEN) --driver $(DRIVER) -- $(OPTIONS)
	@$(BIN)/python -m pileus.cli.first_server --state $(STATE) --driver $(DRIVER)

down: ## stop it; the state stays in $(STATE)
	@$(BIN)/python -m pileus.cli.background down --state $(STATE)

clean: ## stop it and forget its state
	@if [ -e $(STATE)/cloud.json ]; then $(BIN)/pileus down --state $(STATE); $(BIN)/pileus forget --state $(STATE); fi
	@rm -rf $(STATE)

format: .venv/.synced ## let ruff write its format
	@$(BIN)/ruff format --quiet . && $(BIN)/ruff check --quiet --fix .

check: .venv/.synced ## format, lint, types, contracts, unit and generated tests (3 minutes)
	@$(SAY) "format";    $(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(SAY) "lint";      $(BIN)/ruff check --quiet .
	@$(SAY) "types";     $(BIN)/mypy
	@$(SAY) "contracts"; $(BIN)/lint-imports --no-logo >.cache/contracts || { cat .cache/contracts; exit 1; }
	@$(SAY) "tests";     TMPDIR=$(MEMORY) $(BIN)/pytest --floor check -n auto --dist loadfile \
		-m "not e2e and not slow" src tests/architecture tests/generated

test: setup .venv/.ready-tests check ## check, then the official suite, simulation and end to end (45 minutes)
	@$(SAY) "drivers on this machine: real guests, real packets"
	@$(BIN)/pytest --floor drivers -m "e2e and not slow" --durations 5 src
	@$(SAY) "conformance, simulation, end to end"
	@$(BIN)/pytest --floor test -m "not slow" --durations 10 $(wildcard tests/conformance tests/simulation tests/e2e)

soak: setup .venv/.ready-tests ## the services on PostgreSQL, kill -9 by the hundred, 10,000 boots (an hour)
	@TMPDIR=$(MEMORY) $(BIN)/pytest --database postgres -n auto --dist loadfile -m "not e2e and not slow" \
		src/pileus/services
	@$(BIN)/pytest -m "slow or not slow" tests/soak tests/e2e/test_router_failover.py

rubbish: setup .venv/.ready-tests ## long: 100 bodies for every operation, after the schemas' edges (half an hour)
	@$(BIN)/pytest -m slow tests/e2e/test_rubbish.py

openapi: .venv/.synced ## an OpenAPI document for each service, in .cache/openapi
	@$(BIN)/python -m pileus.testing.openapi .cache/openapi

mutate: setup .venv/.ready-tests ## break the kernel on purpose; the suite must notice
	@$(BIN)/python -m tests.mutation

docs: .venv/.synced ## write the generated pages again
	@$(BIN)/python -m pileus.testing.docs

figures: setup ## measure this machine and write docs/performance.md
	@$(BIN)/python -m bench.figures
