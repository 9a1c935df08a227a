# SPDX-License-Identifier: Apache-2.0
# Quiet by default; V=1 shows the full commands.

SHELL := /bin/bash
.DEFAULT_GOAL := help
Q := $(if $(filter 1,$(V)),,@)
PY := .venv/bin/python
# Most tests wait more than they work; each process has mounts, control groups and namespaces of its own.
JOBS ?= 2
# Tests start the command many hundred times: it is not compiled anew each time, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=
SOURCES := $(wildcard bpf/*.c bpf/*/*.c bpf/include/pliant/*.h bpf/include/pliant/*/*.h)
PYTHON_DIRS := src tests hatch_build.py scripts

.PHONY: help setup bpf demo test unit lint docs docs-check pictures bench test-kill test-upgrade fuzz soak oracle effect-aa wheel-check test-kernels instructions clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing (apt packages, virtual environment) and build everything
	$(Q)scripts/setup

bpf: setup ## Compile the BPF objects
	$(Q)$(PY) hatch_build.py

demo: setup bpf ## The main job on real traffic: before, after, and back again
	$(Q)$(PY) -m pliant demo $(ARGS)

test: setup bpf lint docs-check unit wheel-check ## Everything CI runs: lint, types, generated docs, tests, a wheel without clang

unit: setup bpf ## The tests alone; ARGS="-k pattern" to choose
	$(Q)$(PY) -m pytest -m 'not long' -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## ruff, mypy --strict, clang-format
	@echo "  RUFF"; $(PY) -m ruff check -q $(PYTHON_DIRS) && $(PY) -m ruff format -q --check $(PYTHON_DIRS)
	@echo "  MYPY"; $(PY) -m mypy --no-error-summary
	@echo "  CLANG-FORMAT"; clang-format-19 --dry-run --Werror $(SOURCES) $(wildcard tests/*/*.bpf.c)

docs: setup bpf ## Generate docs/reference and docs/kernels.md
	$(Q)$(PY) scripts/generate_docs.py

docs-check: setup bpf ## Fail when the generated pages are not what the code says
	$(Q)$(PY) scripts/generate_docs.py --check

pictures: setup bpf ## Draw docs/images/top.svg anew, on a host of the lab
	$(Q)$(PY) scripts/picture_top.py

bench: setup bpf ## All benchmarks, ten runs each, saved under docs/results (quiet machine!)
	$(Q)for name in startup apply connect overhead off dctcp shared-window attach lazy agent router routes_750k latency modules gateway nat bridge overlay reaction instructions; do $(PY) -m pliant bench $$name --runs 10 --save docs/results || exit 1; done

test-kill: setup bpf ## The long campaign: kill -9 at 200 random points of apply and rollback
	$(Q)$(PY) -m pytest -m long tests/agent $(ARGS)

test-upgrade: setup bpf ## Kill, upgrade and downgrade the agent under 500 and 10,000 open connections and constant new ones
	$(Q)$(PY) -m pytest tests/upgrade $(ARGS)

fuzz: setup bpf ## The long campaign: 3000 files of policies and 300 spoilt tables, new ones each time
	$(Q)PLIANT_FUZZ=3000 $(PY) -m pytest tests/fuzz/test_policies.py $(ARGS)
	$(Q)PLIANT_FUZZ=300 $(PY) -m pytest tests/fuzz/test_tables.py $(ARGS)

soak: setup bpf ## The long campaign: half an hour of everything at random under load; DURATION=5m, ARGS="--seed N -v --save"
	$(Q)$(PY) -m pliant.soak --duration $(or $(DURATION),30m) $(ARGS)

effect-aa: setup bpf ## The long campaign: is what effects are said to be true? Simulated and on the kernel
	$(Q)PLIANT_REPETITIONS=1000 $(PY) -m pytest -s tests/observe/test_lift.py tests/agent/test_guard.py $(ARGS)
	$(Q)PLIANT_REPETITIONS=200 $(PY) -m pytest -s tests/agent/test_effects.py $(ARGS)
	$(Q)$(PY) -m pliant bench effect --save docs/results

oracle: setup bpf ## The long campaign: a million random packets each, through the kernel and through the fast path
	$(Q)PLIANT_ORACLE_PACKETS=$${PLIANT_ORACLE_PACKETS-1000000} $(PY) -m pytest -n $(JOBS) --dist worksteal -rP $(or $(ORACLES),tests/oracle) $(ARGS)

wheel-check: setup ## Build the wheel, install it where no clang is, and load every object from it
	$(Q)scripts/wheel-check

test-kernels: setup bpf ## Boot stock Debian kernels in an emulator with the wheel: what does each support? (docs/kernels.md)
	$(Q)$(PY) scripts/test_kernels.py $(ARGS)

instructions: setup bpf ## Count the instructions a packet takes in the fast path, in an emulator; ARGS=--save records them
	$(Q)$(PY) scripts/executed_instructions.py $(ARGS)

clean: ## Remove what was built
	$(Q)rm -rf build dist demo-out src/pliant/objects .mypy_cache .ruff_cache .pytest_cache .hypothesis
