# `make serve` and `make test` make everything they need on a machine with Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
REQUIREMENTS := deploy/requirements

.DEFAULT_GOAL := help
.PHONY: help serve test training test-avx2 test-gpu bench-gpu fuzz sanitize native lint types openapi docs lock clean

help:  ## show the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

# On the CPU the service needs no PyTorch.
SERVING := $(if $(shell command -v nvidia-smi),serve,base)

serve: $(VENV)/$(SERVING).done native  ## serve the shipped weights on http://127.0.0.1:8000
	$(RUN) -m app

test: $(VENV)/dev.done native  ## run the tests
	$(RUN) -m pytest

training: $(VENV)/dev.done native  ## install what training and evaluation need

# Changes the order of sums in the native engine, PyTorch and oneDNN, and runs every pool with one thread. TESTS names files.
test-avx2: $(VENV)/dev.done native  ## run the tests as on one core of a processor without AVX-512
	core=$$($(RUN) -c 'import os; print(max(os.sched_getaffinity(0)))') && \
	taskset -c $$core env NATIVE_MAX_KIND=avx2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 \
		$(RUN) -m pytest -p no:cacheprovider $(TESTS)

# Without a GPU they are skipped, each with the reason.
test-gpu: $(VENV)/dev.done native  ## run the tests that need a CUDA GPU
	$(RUN) -m pytest -m gpu -rs

bench-gpu: $(VENV)/dev.done native  ## measure engine and server on a CUDA GPU, in ten minutes
	$(RUN) -m benchmarks.gpu

fuzz: $(VENV)/dev.done  ## look for uploads that break the decoding, for ten minutes (needs atheris)
	mkdir -p build/fuzz
	$(RUN) -m tests.fuzz.upload build/fuzz -max_total_time=600 -artifact_prefix=build/

sanitize: $(VENV)/dev.done  ## check the native engine's memory, arithmetic and threads (needs GCC; seven minutes on one core)
	$(RUN) -m tests.native

native:  ## compile the native engine (without a C compiler, the slower ncnn is used)
	@"$(PYTHON)" -m model.engines.native.library || echo "The native engine is not compiled: the slower ncnn is used instead."

lint: $(VENV)/dev.done  ## check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror model/engines/native/*.[ch] tests/native/*.[ch]
	$(VENV)/bin/hadolint Dockerfile

types: $(VENV)/dev.done  ## check types
	$(RUN) -m mypy

openapi: $(VENV)/dev.done  ## write docs/openapi.json again
	$(RUN) -m app.openapi > docs/openapi.json

docs: $(VENV)/docs.done  ## build the documentation as a website in build/site
	$(RUN) deploy/site/stage.py build/pages
	@# Not with --quiet: warnings would no longer fail the build.
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --config-file deploy/site/mkdocs.yml
	@echo "The website is in build/site: open build/site/index.html"

lock:  ## pin the newest versions of everything, with hashes (needs uv)
	uv pip compile pyproject.toml $(LOCK) --extra redis --extra otel -o $(REQUIREMENTS)/base.txt
	uv pip compile pyproject.toml $(LOCK) --extra redis --extra otel --extra torch -o $(REQUIREMENTS)/serve.txt
	uv pip compile pyproject.toml $(LOCK) --extra dev -o $(REQUIREMENTS)/dev.txt
	uv pip compile pyproject.toml $(LOCK) --extra docs -c $(REQUIREMENTS)/dev.txt -o $(REQUIREMENTS)/docs.txt
LOCK := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

clean:  ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis model/engines/native/*.so

define NO_ENVIRONMENT
error: Python could not create its environment in $(VENV); its message is above.
On Debian and Ubuntu it needs another package: apt install python3-venv
If this folder is not writable, name another: make $(MAKECMDGOALS) VENV=$$HOME/segmentation-environment
endef
export NO_ENVIRONMENT

# Debian's Python without python3-venv leaves an environment without pip: creating it again repairs it, or fails again.
$(VENV)/%.done: $(REQUIREMENTS)/%.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@$(RUN) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv $(VENV) || { echo "$$NO_ENVIRONMENT" >&2; exit 1; }
	@echo "Installing $< into $(VENV)$(if $(filter base docs,$*),,: some minutes and 5 GB, because PyTorch includes CUDA)"
	$(RUN) -m pip install --disable-pip-version-check --require-hashes -r $<
	@touch $@
