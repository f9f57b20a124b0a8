# Two commands do everything: `make train` and `make test`. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: train test sweep bench lint format docs pictures linkcheck clean

train: $(VENV)/.installed
	$(BIN)/python launch.py --workers 3 --device-map

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# The tests as on other processors (CONTRIBUTING.md) and on one core: half an hour on 2 cores.
sweep: $(VENV)/.installed-dev
	DNNL_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(BIN)/python -m pytest
	DNNL_MAX_CPU_ISA=AVX512_CORE ATEN_CPU_CAPABILITY=avx512 MKL_ENABLE_INSTRUCTIONS=AVX512 $(BIN)/python -m pytest
	DNNL_MAX_CPU_ISA=AVX512_CORE_BF16 ATEN_CPU_CAPABILITY=avx512 MKL_ENABLE_INSTRUCTIONS=AVX512 $(BIN)/python -m pytest
	taskset -c 0 $(BIN)/python -m pytest

# About 20 minutes on 2 cores. benchmarks/README.md has the commands that its results were measured with, most of them longer.
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/parity.py
	$(BIN)/python benchmarks/parity_kinds.py
	$(BIN)/python benchmarks/transport.py --rounds 1
	$(BIN)/python benchmarks/throughput.py --workload 20x256 --seconds 2 --rounds 2 --best --no-compile
	$(BIN)/python benchmarks/update_lock.py --rounds 1
	$(BIN)/python benchmarks/scaling.py --rounds 1
	$(BIN)/python benchmarks/staleness.py --steps 500 --rounds 1
	$(BIN)/python benchmarks/time_to_accuracy.py --workers 2,3 --steps 720 --locked-steps 720 --learning-rates 1e-3 --schedules constant --targets 4,3 --rounds 1
	$(BIN)/python benchmarks/error_at_steps.py --steps 300 --learning-rates 1e-3 --schedules constant --rounds 1
	$(BIN)/python benchmarks/synthesizer_share.py --rounds 2
	$(BIN)/python benchmarks/accuracy.py --rounds 1
	$(BIN)/python benchmarks/gradient_quality.py --only fcn --methods cdni --steps 200
	$(BIN)/python benchmarks/faults.py --only kills,outage,hangs

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages and reference, in build/docs. A warning is an error: a link inside that leads nowhere, a name that is not in the reference.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build/docs

# The pictures in README.md and docs/, of real runs; needs Chromium.
pictures: $(VENV)/.installed-dev
	$(BIN)/python docs/pictures.py

# Links to other sites, too; needs a network.
linkcheck: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b linkcheck -c docs . build/linkcheck

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -e .
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) -r requirements-dev.txt
	touch $@

$(VENV)/.installed-docs: requirements-docs.txt $(VENV)/.installed
	$(PIP) -r requirements-docs.txt
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
