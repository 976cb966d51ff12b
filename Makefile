# `make` prints what there is: every target with the words behind its `##`.
#
# TORCH=…     another build of torch, as pip would be told: a requirement, a wheel's path or URL
# BACKEND=…   the kind of children that `make e2e` runs over: PyTorchJob or TrainJob; else auto
# ONLY=…      a mark of tests: `make e2e` runs only those that have it
# PYTHON=…    the Python that makes .venv: 3.11 or newer
.PHONY: help run test test-fast test-cuda e2e e2e-chaos check lint types imports generated format generate
.PHONY: samples samples-short screenshots bench bench-operator clean constraints
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  ?=
BACKEND ?=
ONLY   ?=
CRD_FILES := manifests/base/crds/florence.dev_florencejobs.yaml charts/florence-operator/templates/crds.yaml

help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/.train ## set up, then train, evaluate and use a model on this machine
	$(BIN)/florencectl submit -f jobs/samples/digits.yaml --local

test: $(VENV)/.dev ## every test that needs no cluster and no GPU
	$(BIN)/python -m pytest -n auto --dist loadgroup

test-fast: $(VENV)/.dev ## the tests that take seconds: all but those marked slow
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not slow"

test-cuda: $(VENV)/.dev ## the tests that need a GPU, on this machine's first
	$(BIN)/python -m pytest -m cuda

e2e: $(VENV)/.dev ## the tests on the cluster in KUBECONFIG (docs/install.md says what it needs)
	FLORENCE_E2E=1 FLORENCE_E2E_BACKEND=$(BACKEND) $(BIN)/python -m pytest tests/charts tests/e2e --timeout=1200 $(if $(ONLY),-m $(ONLY))

SECONDS ?= 3600
SEED    ?= 1
e2e-chaos: $(VENV)/.dev ## a soak with random faults on that cluster: SECONDS=3600 SEED=1
	FLORENCE_E2E=1 FLORENCE_CHAOS_SECONDS=$(SECONDS) FLORENCE_CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -s tests/e2e/chaos

check: lint types imports generated ## lint, types, imports and generated, as CI does

lint: $(VENV)/.dev ## style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev ## who may import whom
	$(BIN)/lint-imports

generated: $(VENV)/.dev ## whether generated files are fresh
	$(BIN)/python -m florence_jobs.recipes jobs/samples --check
	$(BIN)/python -m florence_jobs.pipelines --check
	$(BIN)/python -m florence_operator.api.crd $(CRD_FILES) --check
	$(BIN)/python charts/generate.py --check
	$(BIN)/python -m tools.reference docs/reference.md --check
	$(BIN)/python -m tools.rights --check
	$(BIN)/python -m tools.causes --check
	$(BIN)/python -m tools.version --check

format: $(VENV)/.dev ## put style and format right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(VENV)/.dev ## write the generated files: CRD, samples, chart, reference, rights, causes, version
	$(BIN)/python -m florence_jobs.recipes jobs/samples
	$(BIN)/python -m florence_jobs.pipelines
	$(BIN)/python -m florence_operator.api.crd $(CRD_FILES)
	$(BIN)/python charts/generate.py
	$(BIN)/python -m tools.reference docs/reference.md
	$(BIN)/python -m tools.rights
	$(BIN)/python -m tools.causes
	$(BIN)/python -m tools.version

samples: $(VENV)/.dev ## every sample at full length; writes the figures that docs/results.md quotes
	$(BIN)/python -m tools.samples

samples-short: $(VENV)/.dev ## samples with fewer steps, as CI runs them beside `make run`
	$(BIN)/python -m tools.samples --short digits-finetune digits-video digits-detection digits-vision-language

screenshots: $(VENV)/.dev ## the pictures of the docs, of a run of the sample (needs Chromium)
	$(BIN)/python -m tools.screenshots docs/pictures --only runs stage-charts pictures report

bench: $(VENV)/.dev ## speed and memory against the field's own code, as ratios
	for bench in $(filter-out %bench_operator.py %bench_running_jobs.py %bench_backends.py,$(wildcard tests/benchmarks/bench_*.py)); do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

bench-operator: $(VENV)/.dev ## the operator with running jobs, then on the cluster in KUBECONFIG, beside the Training Operator and Trainer
	$(BIN)/python tests/benchmarks/bench_running_jobs.py
	$(BIN)/python tests/benchmarks/bench_operator.py
	$(BIN)/python tests/benchmarks/bench_backends.py

clean: ## delete .venv and what tools cached
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit("florence needs Python 3.11 or newer: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt

# A marker per set of extras: a second run finds it and installs nothing.
$(VENV)/.train: $(BIN)/uv pyproject.toml constraints.txt
	$(call install,train)
$(VENV)/.dev: $(BIN)/uv pyproject.toml constraints.txt
	$(call install,dev)
	touch $(VENV)/.train

define install
	$(if $(TORCH),$(BIN)/uv pip install --quiet --python $(BIN)/python "$(TORCH)")
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[$(1)]" \
	  -c $(if $(TORCH),<(grep -viE "^(torch|torchvision|triton|nvidia-.*)==" constraints.txt),constraints.txt)
	touch $@
endef
SHELL := /bin/bash

# For every platform; run the tests before committing.
constraints: $(BIN)/uv ## resolve the newest versions that fit together
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links -o $(VENV)/resolved.txt
	(echo "# Versions that were tested together. Regenerate with 'make constraints'."; \
	  (cat $(VENV)/resolved.txt; $(BIN)/uv --version | sed 's/uv \([0-9.]*\).*/uv==\1/') | sort -f) > constraints.txt
