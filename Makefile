# Two commands for a newcomer: `make demo` and `make test`. `make help` lists the rest.
# Everything is installed into .venv; nothing outside this folder is touched.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
JOBS ?= 2
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
CORE := $(VENV)/.installed-core
TEST := $(VENV)/.installed-test
DEV := $(VENV)/.installed-dev
PINS := pyproject.toml constraints.txt

# Compiling every file of every dependency costs 48 s of processor time on the reference machine (python -m compileall
# over the core installation), so pip leaves it out; the first import compiles what is used, even where the environment forbids it.
unexport PYTHONDONTWRITEBYTECODE
WARM := import accelerate, av, einops, peft, rich.progress, safetensors.torch, tyro; \
  from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel; \
  from transformers import AutoTokenizer, BertModel

# Tests run one linear-algebra thread per worker: $(JOBS) workers with a pool each would fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
OFFLINE := HF_HUB_OFFLINE=1
ASKED := $(VENV)/bf16-asked.txt

.PHONY: help demo test test-bf16 test-slow test-net newcomer shell lint format types bench figures readme flags constraints hooks install install-test install-dev clean

help: ## Show this list.
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(CORE) ## Install what a user needs and make a clip with the bundled model.
	$(BIN)/kineograph generate "a juggling man" -o demo.mp4 --preview demo.png --seed 1 --overwrite
	@echo "The clip: $(CURDIR)/demo.mp4   eight of its sixteen frames side by side: $(CURDIR)/demo.png"

test: $(TEST) ## Install what the tests need and run them (ARGS="-k name" narrows).
	@rm -f $(ASKED)
	$(ONE_THREAD) $(OFFLINE) KINEOGRAPH_BF16_ASKED=$(ASKED) $(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-bf16: $(TEST) ## Run what asked for bfloat16 in `make test` again, with the other answer.
	@test -s $(ASKED) || { echo "error: $(ASKED) lists nothing. make test writes it; run that first" >&2; exit 2; }
	@sort -u $(ASKED) -o $(ASKED)
	other=$$($(BIN)/python -c "from kineograph.devices import has_bf16; print(int(not has_bf16()))"); \
	$(ONE_THREAD) $(OFFLINE) KINEOGRAPH_BF16=$$other $(BIN)/python -m pytest -n $(JOBS) @$(ASKED) $(ARGS)

test-slow: $(TEST) ## Run the tests that take minutes.
	$(ONE_THREAD) $(OFFLINE) $(BIN)/python -m pytest -n $(JOBS) -m "slow and not gpu and not net" --timeout 3600 $(ARGS)

test-net: $(TEST) ## Run the tests that need a package registry.
	$(ONE_THREAD) $(BIN)/python -m pytest -m "net" --timeout 3600 $(ARGS)

newcomer: $(TEST) ## Live a newcomer's day: a fresh clone, every command of README and docs, an own model.
	$(ONE_THREAD) $(BIN)/python -m pytest tests/newcomer -m "slow or net" --timeout 3600 $(ARGS)

shell: $(CORE) ## Open a shell in which `kineograph` is on the path.
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" PATH="$(CURDIR)/$(BIN):$$PATH" exec "$${SHELL:-/bin/sh}"

lint: $(DEV) ## Check style and docstrings.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV) ## Rewrite the files in the project's style.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV) ## Check types.
	$(BIN)/basedpyright

bench: $(CORE) ## Time this machine against diffusers.
	$(BIN)/kineograph bench $(ARGS)

figures: $(TEST) ## Make every picture of README and docs anew.
	for script in $$(find docs -name "*figures.py" | sort); do $(BIN)/python "$$script"; done

readme: $(CORE) ## Write the registry table of README.md anew.
	$(BIN)/python -m kineograph.cli.systems README.md

flags: $(TEST) ## Accept the present command-line flags as the agreed ones.
	$(BIN)/python tests/cli/flags.py

constraints: $(DEV) ## Write constraints.txt from what is installed in .venv.
	$(BIN)/python tests/constraints.py

hooks: $(DEV) ## Run the checks before every commit.
	$(PIP) pre-commit
	$(BIN)/pre-commit install

install: $(CORE) ## Install the package into .venv.
install-test: $(TEST) ## ... with what the tests need.
install-dev: $(DEV) ## ... with the linters too.

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: no python3 found. On Debian: apt-get install python3 python3-venv" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip' || \
	  { echo "error: this Python cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 2; }
	"$(PYTHON)" -m venv $(VENV)

$(CORE): $(PINS) | $(BIN)/python
	$(PIP) --editable .
	$(BIN)/python -W ignore -c "$(WARM)"
	@touch $@

$(TEST): $(PINS) | $(BIN)/python
	$(PIP) --editable ".[test]"
	$(BIN)/python -W ignore -c "$(WARM)"
	@touch $(CORE) $@

$(DEV): $(PINS) | $(BIN)/python
	$(PIP) --editable ".[dev]"
	$(BIN)/python -W ignore -c "$(WARM)"
	@touch $(CORE) $(TEST) $@

clean: ## Remove the virtual environment, caches and the demo's files.
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis demo.mp4 demo.png
