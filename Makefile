# Everything a newcomer needs: `make demo` runs the main job, `make test` the tests.  `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := cache/demo

.PHONY: help setup demo test test-fast test-report chaos parity check types bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv and install the project into it, versions pinned by constraints.txt

# Before a .venv is made that pip cannot fill.
ASK = import sys; print("ok" if sys.version_info >= (3, 11) else "Python %d.%d, 3.11 or newer is needed" % sys.version_info[:2])
problem = $(filter-out ok,$(or $(shell $(1) -c '$(ASK)' 2>/dev/null),no Python that can be run))

$(STAMP): pyproject.toml constraints.txt
	$(if $(call problem,$(PYTHON)),$(error $(PYTHON) is $(call problem,$(PYTHON)); name one: make setup PYTHON=python3.11))
	$(if $(wildcard $(BIN)/python),$(if $(call problem,$(BIN)/python),\
		$(error $(BIN)/python is $(call problem,$(BIN)/python); remove $(VENV) and run make setup again)))
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
# torch's CUDA builds bring the triton they want; the others bring none, and its interpreter runs the kernels' tests.
	$(BIN)/python -c 'import triton' 2>/dev/null || test "$$(uname -sm)" != "Linux x86_64" \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --no-deps triton==3.6.0
	touch $@

demo: $(STAMP)  ## Embed, cache, train and evaluate on a generated set (some two minutes on two cores)
	$(BIN)/crossllm data demo --cache $(DEMO)
	$(BIN)/embed run --modality rna --input $(DEMO)/rna.fasta --encoder profile
	$(BIN)/embed run --modality protein --input $(DEMO)/protein.fasta --encoder profile
	$(BIN)/crossllm cache verify --cache $(DEMO)
# The profile's columns are on one scale already; standardised, its rare ones drown the planted motif (docs/LOG.md).
	$(BIN)/train --cache $(DEMO) --folds 3 --epochs 12 --lr 3e-3 --set standardise=false --out $(DEMO)/runs/demo --baselines fast --resume

test: $(STAMP)  ## Run the tests
	$(BIN)/pytest -n 2 --dist worksteal

# What needs no other process and no second of its own, of all four packages: most tests, in well under a minute.
test-fast: $(STAMP)  ## Run the quick tests alone, while editing
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not network'

chaos: $(STAMP)  ## Run the long tests of durability, and print their figures (kills, power losses, full disks, races)
	CROSSLLM_CHAOS=1 $(BIN)/pytest -s tests/test_cache_kill.py tests/test_cache_faults.py \
		tests/test_cache_powerloss.py tests/test_cache_races.py tests/test_cache_model.py tests/test_embed_rpi1460.py \
		tests/test_pipeline_train.py::test_the_demo_is_learnt \
		tests/test_pipeline_baselines_real.py \
		tests/test_cli_machine.py::test_train_runs_without_a_home_and_makes_no_folder_for_one \
		tests/test_pipeline_resume.py::test_killed_at_random_instants

# Elsewhere than on Debian, any Chromium or Chrome on the PATH will do.
test-report: $(STAMP)  ## Install Chromium where apt may, open a report in it, and leave screenshots in build/report
	command -v chromium chromium-browser google-chrome >/dev/null || apt-get install -y --no-install-recommends chromium
	CROSSLLM_BROWSER=1 $(BIN)/pytest -s tests/test_pipeline_report_browser.py

parity: $(STAMP)  ## Install multimolecule (AGPL, large) and hold RiNALMo, RNA-FM and RNABERT to its models
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt multimolecule
	$(BIN)/pytest tests/test_embed_multimolecule.py

check: $(STAMP) types  ## Lint, types (strict), layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_cli_layers.py

types:  # mypy follows no import hook: the package as a folder of links, which see every new module at once
	rm -rf build/mypy && mkdir -p build/mypy/crossllm
	ln -sfn $(addprefix ../../../,cache embed model pipeline $(wildcard pipeline/crossllm/*.py*)) build/mypy/crossllm

bench: $(STAMP)  ## Run the benchmarks, each beside its peers in one run
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

clean:  ## Remove the environment, the demo and what tools leave behind
	rm -rf $(VENV) $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
