# The two commands to know: `make quickstart` and `make test`. Both make the environment first, once.
PYTHON ?= python3
BIN := .venv/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)

.DEFAULT_GOAL := help
.PHONY: help install data quickstart services test test-slow image-test lint docs chaos bench bench-peers bench-growth bench-start bench-store gpu clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed  ## The environment, in .venv

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "installing python3-venv"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

data: install  ## Fashion-MNIST: from the data folder, Debian's package, or a download
	@$(BIN)/eman data fetch fashion-mnist || { \
	  command -v apt-get >/dev/null || exit 2; \
	  echo "installing Debian's package dataset-fashion-mnist" >&2; \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq dataset-fashion-mnist >/dev/null \
	  && $(BIN)/eman data fetch fashion-mnist; }

quickstart: data  ## Tables 1 and 8 from real runs at profile quick: minutes on two cores
	@$(BIN)/eman sweep table1 table8 --profile quick

services:  ## PostgreSQL, Prometheus, Slurm and Chromium for the tests, where Debian's packages can be installed
	@missing=; ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing=postgresql; \
	for name in chromium prometheus; do command -v $$name >/dev/null || missing="$$missing $$name"; done; \
	[ -x /usr/sbin/slurmctld ] || missing="$$missing slurmctld slurmd slurm-client munge"; \
	[ -z "$$missing" ] || { echo "installing $$missing" >&2; \
	  $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; } \
	|| echo "could not install $$missing: the tests that need it will be skipped" >&2; \
	for name in prometheus slurmctld slurmd munge; do case "$$missing" in *$$name*) \
	  $(SUDO) systemctl --quiet disable --now $$name 2>/dev/null || true;; esac; done  # tests start their own

test: install  ## The quick tests: every module and property, in minutes
	$(BIN)/python -m pytest -m "not slow" --numprocesses logical --maxprocesses 4 --dist worksteal

test-slow: install services  ## The slow tests: faults, whole tables, browser, deployment, commands of the pages
	$(BIN)/python -m pytest -m slow

image-test:  ## The image, built by buildah as root without a registry of images, and a sweep in it: half an hour
	@for name in buildah debootstrap; do command -v $$name >/dev/null || missing="$$missing $$name"; done; \
	[ -z "$$missing" ] || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends $$missing >/dev/null; }
	$(SUDO) env IMAGE_OPTIONS="$$IMAGE_OPTIONS" tests/image.sh

lint: install  ## Style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check --quiet
	$(BIN)/mypy

docs: install  ## The pages, in docs/_build/html; a broken link is an error
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -q -E -W --keep-going docs docs/_build/html

chaos: install  ## A sweep with twenty injected faults: minutes
	$(BIN)/python tests/chaos.py

bench: install  ## Benchmarks: medians and ratios
	$(BIN)/python tests/benchmarks/bench.py

bench-peers: install  ## Beside lightly and scikit-learn
	$(BIN)/python tests/benchmarks/peers.py

bench-growth: install  ## How a sweep's time grows with its runs, and a step's with its devices
	$(BIN)/python tests/benchmarks/growth.py

bench-store: install services  ## What commands cost in a store of 10,000 runs
	$(BIN)/python tests/benchmarks/many_runs.py

bench-start: install  ## What commands cost before they do their work, and a sweep before its first step
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/first_step.py

gpu: install  ## Benchmark of one NVIDIA GPU: minutes; results in gpu.json
	$(BIN)/python tests/benchmarks/gpu.py

clean:  ## Remove the environment and caches; results in .eman stay
	rm -rf docs/_build .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info
