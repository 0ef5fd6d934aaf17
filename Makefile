# Two commands, nothing before them: `make bench` and `make test`. Variables are shown by `make help`.
PYTHON ?= python3
VENV ?= .venv
EXPERIMENTS ?=
BUDGET ?=
TIMES ?= 20
PYTEST_OPTIONS ?=
# Targets cannot hold a blank, and `make clean` would remove each of its words.
$(if $(word 2,$(VENV)),$(error VENV: "$(VENV)" holds a blank, expected a path without one))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install bench test test-rest test-accelerators test-all test-repeat mutate perf peers gpu-check lint findings report compare site clean

ifeq ($(strip $(VENV)),)
PY := "$(PYTHON)"
PY_PLAN := $(PY)
export PYTHONPATH := $(CURDIR)/bench$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test
INSTALLED_MUTATE := $(VENV)/.installed-mutate
INSTALLED_PEERS := $(VENV)/.installed-peers
# An environment of its own: with these compilers JAX looks for the devices whenever it starts. Where they cannot be had,
# the tests are skipped and say so.
VENV_PLAN := $(VENV)-plan
PY_PLAN := $(VENV_PLAN)/bin/python
INSTALLED_PLAN := $(VENV_PLAN)/.installed
$(INSTALLED_TEST): EXTRAS := test
$(INSTALLED_MUTATE): EXTRAS := test mutate
$(INSTALLED_PEERS): EXTRAS := test peers
$(INSTALLED_PLAN): pyproject.toml bench/install.py
	@"$(PYTHON)" bench/install.py $(VENV_PLAN) test plan || "$(PYTHON)" bench/install.py $(VENV_PLAN) test
	@touch $@
$(INSTALLED) $(INSTALLED_TEST) $(INSTALLED_MUTATE) $(INSTALLED_PEERS): pyproject.toml bench/install.py
	@command -v "$(PYTHON)" >/dev/null || { echo "batchscale: $(PYTHON) was not found; install Python 3.11 or newer, or name it: PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" bench/install.py $(VENV) $(EXTRAS)
	@touch $(INSTALLED) $@
endif

# Threads of NumPy's OpenBLAS that wait for work spin. Where every core has a worker, they took half of its time: 100 s of
# tests of the analysis need 53 s with one thread for each worker (2 x86 cores, November 2026).
test test-rest test-all test-repeat: export OPENBLAS_NUM_THREADS := 1
# A file stays with one worker, so what its tests share is made and compiled once.
PYTEST := $(PY) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder
BENCHMARK = -p no:xdist -o addopts= --benchmark-only --benchmark-autosave $(PYTEST_OPTIONS)
REST := slow or network or browser
ELSEWHERE := accelerator
# Tests refuse connections themselves; where the system allows it, a network of their own is empty for children too.
NO_NETWORK = $(shell unshare -rn true 2>/dev/null && echo unshare -rn)

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo
	@echo "  VENV= PYTHON=/path/to/python   use an interpreter that has JAX, install nothing"

install: $(INSTALLED) ## what the commands need, in .venv; nothing is measured

bench: $(INSTALLED) ## measure this machine and answer (BUDGET=minutes, EXPERIMENTS="names or .toml files")
	@$(PY) -m batchscale run $(if $(BUDGET),--budget $(BUDGET)) $(EXPERIMENTS)

# Optimising the tests' small programs takes longer than running them; `make test-rest` optimises, as users' runs do.
test: $(INSTALLED_TEST) ## the tests, a few minutes
	@JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST) -m "not ($(REST) or $(ELSEWHERE))" $(PYTEST_OPTIONS)

test-rest: $(INSTALLED_TEST) ## the tests that `make test` leaves out: long proofs, the network, a browser
	@$(PYTEST) -m "$(REST)" $(PYTEST_OPTIONS)

test-accelerators: $(INSTALLED_PLAN) ## compile the default suite for GPUs and TPUs that are not here, some minutes
	@$(PY_PLAN) -m pytest -p no:xdist -m $(ELSEWHERE) tests/accelerators $(PYTEST_OPTIONS)

test-all: $(INSTALLED_TEST) ## every test, with branch coverage of at least 90 %
	@$(PYTEST) -m "not $(ELSEWHERE)" --cov --cov-fail-under=90 $(PYTEST_OPTIONS)

test-repeat: $(INSTALLED_TEST) ## the tests TIMES times (20), in another order each time, with the network cut
	@for time in $$(seq $(TIMES)); do \
	  echo "$$time of $(TIMES)"; $(NO_NETWORK) $(PYTEST) -m "not ($(REST) or $(ELSEWHERE))" --quiet $(PYTEST_OPTIONS) || exit 1; \
	done

mutate: $(INSTALLED_MUTATE) ## small faults put into analysis, fits, stream and store: at least 80 % must be noticed
	@$(PY) tests/mutation/survivors.py

perf: $(INSTALLED_TEST) ## the suite's own speed, saved under .benchmarks/
	@$(PY) -m pytest tests/perf --ignore=tests/perf/test_peers.py $(BENCHMARK)

peers: $(INSTALLED_PEERS) ## the same studies written in PyTorch and in plain JAX, next to ours (installs PyTorch)
	@$(PY) -m pytest tests/perf/test_peers.py $(BENCHMARK)

gpu-check: $(INSTALLED_TEST) ## what the first quarter of an hour on a GPU shows, as a table; a second run repeats what failed
	@$(PY) tests/accelerators/gpu_check.py

lint: $(INSTALLED_TEST) ## formatting, rules, types and the layers of the architecture
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m pyright --pythonpath $(PY)
	@$(PY) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

findings: $(INSTALLED_TEST) ## write the numbers of results/README.md anew, after results were published
	@PYTHONPATH=bench $(PY) tests/promises/test_findings.py

report: $(INSTALLED) ## write the page of a results folder again (DIR=results/local/experiment/machine)
	@$(if $(DIR),,echo "batchscale: make report: DIR is not set, expected DIR=results/local/experiment/machine"; exit 2;) \
	$(PY) -m batchscale report "$(DIR)"

compare: $(INSTALLED) ## two results folders side by side (A=folder B=folder)
	@$(if $(and $(A),$(B)),,echo "batchscale: make compare: A or B is not set, expected A=folder B=folder"; exit 2;) \
	$(PY) -m batchscale compare "$(A)" "$(B)"

site: $(INSTALLED) ## one site of all published results, in site/
	@$(PY) -m batchscale site

clean: ## remove the environment, caches and built pages; results stay
	rm -rf $(if $(INSTALLED),$(VENV) $(VENV_PLAN)) .benchmarks .coverage* .hypothesis .import_linter_cache .pytest_cache .ruff_cache build mutants dist site
	find bench models tests -name __pycache__ -type d -exec rm -rf {} +
