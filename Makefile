# Every target sets up what it needs. A fresh machine has Python 3.11 or 3.12, a C compiler, make, git and reach to the
# package registries; `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

UV_VERSION := 0.13.8
GRPCURL_VERSION := 1.9.3
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/multitask
export GRPCURL := $(CACHE)/bin/grpcurl-$(GRPCURL_VERSION)

# Two test processes of one thread each: torch's own threads gain nothing at the sizes of the tests and make times unsteady.
TEST_WORKERS ?= 2
PYTEST_ARGS ?=
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

BIN := .venv/bin
UV := .make/uv/bin/uv
PACKAGES := crds client kubernetes-client serving trainer-image operator
SOURCES := $(PACKAGES:%=%/src)
CHART := helm/multitask-operator
# Of an image's lock: requirements.lock says which versions, and why they are there.
COMPILE = $(UV) pip compile --quiet --python $(BIN)/python --generate-hashes --universal --python-version 3.11 --no-header
AS_LOCKED := --constraints requirements.lock --no-annotate
without = $(foreach package,$(1),--no-emit-package multitask-$(package))
GENERATED := crds/multitask.dev_multitaskmodels.yaml crds/multitask.dev_taskroutes.yaml client/src/multitask_client/proto docs/resource.md \
  $(CHART)/files/crds $(CHART)/values.schema.json

.PHONY: help setup lock generate check-generate lint format test test-fast demo open-suite gpu-run e2e kubernetes images grpcurl clean

help:  ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: .make/setup  ## Create .venv with all dependencies and our packages

.make/python: tools/find_python.sh
	@mkdir -p .make
	@tools/find_python.sh > $@

$(UV): tools/get_uv.sh | .make/python
	@tools/get_uv.sh "$$(cat .make/python)" $(UV_VERSION) .make/uv
	@touch $@

.venv/pyvenv.cfg: | $(UV)
	$(UV) venv --quiet --python "$$(cat .make/python)" .venv

.make/setup: requirements.lock requirements-triton.lock $(PACKAGES:%=%/pyproject.toml) | .venv/pyvenv.cfg
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements-triton.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(PACKAGES:%=--editable %)
	@touch $@

lock: | .venv/pyvenv.cfg  ## Resolve the dependencies again and write the locks
	$(COMPILE) pyproject.toml --extra dev $(UPGRADE) $(call without,api client kubernetes serving trainer operator) \
	  --output-file requirements.lock > /dev/null
	$(COMPILE) $(addsuffix /pyproject.toml,crds kubernetes-client operator) $(call without,api kubernetes) $(AS_LOCKED) \
	  --output-file requirements-operator.lock > /dev/null
	$(COMPILE) $(addsuffix /pyproject.toml,crds client kubernetes-client serving) --extra cluster $(call without,api client kubernetes) \
	  $(AS_LOCKED) --output-file requirements-gateway.lock > /dev/null
	$(COMPILE) $(addsuffix /pyproject.toml,crds client serving trainer-image) --extra engine $(call without,api client serving) $(AS_LOCKED) \
	  --output-file requirements-trainer.lock > /dev/null
	printf '%s\n' fsspec s3fs | $(COMPILE) - $(addsuffix /pyproject.toml,crds client serving) --extra engine $(call without,api client) \
	  $(AS_LOCKED) --output-file requirements-serving.lock > /dev/null
	printf '%s\n' hatchling setuptools | $(COMPILE) - $(AS_LOCKED) --output-file requirements-build.lock > /dev/null
	grep '^nvidia-pytriton==' requirements-triton.lock | sed 's/ .*//' \
	  | $(COMPILE) - --no-deps --no-annotate --output-file requirements-triton.lock > /dev/null
	@! grep -nE '://|^-i|index-url' requirements*.lock

generate: .make/setup  ## Write the generated files: CRDs, their copies in the chart, their reference page, the schema of the chart's values, protobuf modules
	$(BIN)/python -m multitask_api.crd
	$(BIN)/python -m multitask_api.crd --out $(CHART)/files/crds
	$(BIN)/python tools/generate_docs.py
	$(BIN)/python tools/generate_values_schema.py
	$(BIN)/python tools/generate_proto.py

check-generate: .make/setup  ## Fail if a generated file is out of date
	@rm -rf .make/generated && mkdir .make/generated && cp -r $(GENERATED) .make/generated
	@$(MAKE) --no-print-directory generate
	@for path in $(GENERATED); do diff -ru -x __pycache__ ".make/generated/$${path##*/}" "$$path" \
	  || { echo "$$path was out of date and has been written again: review and commit it" >&2; exit 1; }; done

lint: .make/setup  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .make/setup  ## Sort imports and format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

test: lint check-generate $(GRPCURL) kubernetes  ## Lint, check the generated files, and run all tests
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-fast: .make/setup  ## Run the unit tests only
	$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS) tests/unit

demo: .make/setup  ## Train, qualify and serve the support-desk example; about 6 minutes on two quiet cores
	$(BIN)/python examples/support-desk/demo.py

open-suite: .make/setup  ## Run the benchmark on public tasks; about an hour on two quiet cores: make open-suite DATA=folder
	$(BIN)/python tests/benchmarks/open_suite.py --data "$(DATA)" $(OPEN_SUITE_ARGS)

gpu-run: .make/setup  ## Pack what a machine with one NVIDIA GPU and no network needs to run it: make gpu-run DATA=folder
	$(BIN)/python tools/gpu_box/pack.py --data "$(DATA)"

e2e: .make/setup $(GRPCURL)  ## Test the product in a real cluster of one node: the support-desk example and a small suite; needs root
	$(BIN)/python tests/e2e/in_cluster/run.py $(E2E_ARGS)

kubernetes: .make/setup  ## Build the Kubernetes programs that tests start; once a machine, about 12 minutes
	$(BIN)/python tools/devcluster/binaries.py --one-node
	$(BIN)/python tools/devcluster/other_crds.py

images: .make/setup  ## Build the container images without registry or daemon; about 25 minutes after each change of the sources
	$(BIN)/python tools/devcluster/images.py operator trainer triton gateway

grpcurl: $(GRPCURL)  ## Build the grpcurl that tests call

$(GRPCURL): | .make/python
	tools/get_grpcurl.sh "$$(cat .make/python)" $(GRPCURL_VERSION) $@

clean:  ## Remove the environment and everything built or trained in this checkout
	rm -rf .venv .make .mtm .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
