# `make demo` and `make test` set up everything they need; see README.md.
#
# Variables (make test PYTHON=python3.12 VENV=/tmp/env):
#   PYTHON       interpreter that creates the environment
#   VENV         folder of the environment, created or reused
#   TORCH        requirements of PyTorch; TORCH="torch torchvision" takes the newest
#   FAISS        faiss-cpu or faiss-gpu
#   CONSTRAINTS  pip constraints file with tested versions; empty for none

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.14.1 torchvision==0.29.1
FAISS ?= faiss-cpu
CONSTRAINTS ?= .ci/constraints.txt
FASTREID := fastreid==1.4.0
# Every test computes on one thread. A file's tests share what they train, so they stay together;
# files are handed out in the order of tests/conftest.py, the longest first.
PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder
DEMO_DATA := datasets/demo
PRETRAINING_DATA := datasets/demo-pretraining

RUN := $(abspath $(VENV))/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format clean

help:
	@echo "make demo    draw the demo data, train BN and MetaBIN on it, search, print the table of results"
	@echo "make test    lint, type check and all tests; make test-all with long campaigns, in hours"
	@echo "make install the environment alone; make lint | format | clean"

install: $(INSTALLED)

# fastreid pins a torch that current Python has no build of, hence --no-deps.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install $(addprefix --constraint ,$(CONSTRAINTS)) \
		$(TORCH) --editable ".[$(FAISS),demo,dev]"
	$(RUN) -m pip install --no-deps "$(FASTREID)"
	touch $@

demo: export FASTREID_DATASETS := $(DEMO_DATA)
demo: $(INSTALLED)
	$(RUN) tools/make_demo_data.py --output $(DEMO_DATA)
	$(RUN) tools/make_demo_data.py --output $(PRETRAINING_DATA) --seed 1
	$(RUN) tools/demo.py --pretraining-data $(PRETRAINING_DATA)

test: lint
	$(RUN) -m pytest $(PARALLEL) -m "not slow"
	$(RUN) -m pytest $(PARALLEL) -m slow

# What a release runs: long campaigns in full, every backbone, other kernels.
test-all: export EXHAUSTIVE := 1
test-all: export MUTATIONS ?= 100
test-all: test

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# Leaves logs/ (trained networks) and an environment named by VENV alone.
clean:
	rm -rf .venv build dist *.egg-info $(DEMO_DATA) $(PRETRAINING_DATA)
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
