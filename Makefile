# Everything is made in .venv; a target makes what it needs.
.PHONY: run test test-fast test-all lint up bench clean
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
# Compiling the libraries anew in every process costs seconds each time.
unexport PYTHONDONTWRITEBYTECODE
UV := .venv/bin/uv
INSTALLED := .venv/.installed

run: $(INSTALLED)
	.venv/bin/thaw sample
	.venv/bin/thaw run

# three, since a test often waits for a process that it started
test: lint
	.venv/bin/pytest -n 3 -m "not full and not real"

# while coding: little more than a minute on two free cores
test-fast: $(INSTALLED)
	.venv/bin/pytest -n 2 -m "not slow and not full and not real"

test-all: lint
	.venv/bin/pytest -n 2

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

up: $(INSTALLED)
	.venv/bin/thaw up

# fastai and Lightning are measured beside Thaw where they are installed
bench: $(INSTALLED)
	$(UV) pip install -q -c constraints.txt -e '.[bench]'
	.venv/bin/python -P bench/run.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The environment is made again where what it is made from has changed.
$(INSTALLED): pyproject.toml constraints.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	test -x $(UV) || .venv/bin/python -m pip install -q -c constraints.txt uv
	VIRTUAL_ENV=$(CURDIR)/.venv $(UV) pip install -q -c constraints.txt -e '.[dev]'
	touch $@
