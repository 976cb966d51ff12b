# make run    set up, then train, evaluate and use a model on this machine
# make test   set up, then run all tests that need no cluster and no GPU
# make check  lint, types, import rules, generated files
# make e2e    the tests on the cluster in KUBECONFIG (docs/install.md says what it needs)
# make bench  speed and memory against the field's own code, as ratios
# make bench-operator  the operator on the cluster in KUBECONFIG, beside the Training Operator
#
# TORCH=…     another build of torch, as pip would be told: a requirement, a wheel's path or URL
.PHONY: run test e2e check bench bench-operator generate clean
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  ?=
CRD_FILES := manifests/base/crds/florence.dev_florencejobs.yaml charts/florence-operator/templates/crds.yaml

run: $(VENV)/.train
	$(BIN)/florencectl submit -f jobs/samples/digits.yaml --local

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadgroup

e2e: $(VENV)/.dev
	FLORENCE_E2E=1 $(BIN)/python -m pytest tests/charts tests/e2e --timeout=1200

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m florence_jobs.recipes jobs/samples --check
	$(BIN)/python -m florence_operator.api.crd $(CRD_FILES) --check
	$(BIN)/python charts/generate.py --check

bench: $(VENV)/.dev
	for bench in $(filter-out %bench_operator.py,$(wildcard tests/benchmarks/bench_*.py)); do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

bench-operator: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/bench_operator.py

generate: $(VENV)/.dev
	$(BIN)/python -m florence_jobs.recipes jobs/samples
	$(BIN)/python -m florence_operator.api.crd $(CRD_FILES)
	$(BIN)/python charts/generate.py

clean:
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

# Resolve the newest versions that fit together, for every platform; run the tests before committing.
constraints: $(BIN)/uv
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-annotate --no-header --no-emit-index-url --no-emit-find-links -o $(VENV)/resolved.txt
	(echo "# Versions that were tested together. Regenerate with 'make constraints'."; \
	  (cat $(VENV)/resolved.txt; $(BIN)/uv --version | sed 's/uv \([0-9.]*\).*/uv==\1/') | sort -f) > constraints.txt
.PHONY: constraints
