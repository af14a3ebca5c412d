# Everything runs in a virtual environment of its own, .venv; PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart
RUN := $(VENV)/bin/python

.PHONY: help quickstart test lint test-long test-backbones test-recipes test-faults test-matrix clean
.PHONY: docs test-docs
.DEFAULT_GOAL := help

help:
	@echo "make quickstart   install into $(VENV), train AutoMix on embedded images (about 5 minutes)"
	@echo "make test         install into $(VENV), lint, type-check and test"
	@echo "make test-long    the tests that take too long for make test"
	@echo "make test-backbones  every network against its PyTorch original at every size"
	@echo "make test-recipes  an abstract step of every recipe and variant"
	@echo "make test-faults  runs that are killed, damaged, starved and poisoned, and go on (16 minutes)"
	@echo "make docs         the site, into build/site"
	@echo "make test-docs    everything that the documentation tells one to type, executed"
	@echo "make test-matrix  the tests on Python 3.11, 3.12 and 3.13 with the sets in constraints/"
	@echo "make clean        remove the virtual environments and the site"

quickstart: $(VENV)/.installed
	$(RUN) main.py --config=configs/quickstart.py --workdir=$(WORKDIR)

# A process for each core, each with whole files: tests of a file share what they have compiled.
test: $(VENV)/.installed-dev lint
	$(RUN) -m pytest -n auto --dist loadfile

FAULTS := $(addprefix tests/test_, $(addsuffix .py, bad_images checkpoint cluster manifest memory \
	numbers processes run sharding stop stream survival weight_files workdir))

test-faults: $(VENV)/.installed-dev
	AUTOMIX_KILLS=20 AUTOMIX_LONG=all $(RUN) -m pytest -n auto --dist loadfile $(FAULTS)

test-backbones: $(VENV)/.installed-dev
	AUTOMIX_BACKBONES=all $(RUN) -m pytest tests/test_backbones.py

test-long: $(VENV)/.installed-dev
	AUTOMIX_LONG=all $(RUN) -m pytest -n auto -m long

test-recipes: $(VENV)/.installed-dev
	AUTOMIX_RECIPES=all $(RUN) -m pytest -n auto tests/test_configs.py -k builds

# A warning fails it, which --quiet would leave uncounted. The variable silences an announcement.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo "build/site/index.html"

DOCS := $(addprefix tests/test_, $(addsuffix .py, docs_site doctests documented_commands readme))

test-docs: $(VENV)/.installed-dev
	AUTOMIX_LONG=all $(RUN) -m pytest -n auto --dist loadfile $(DOCS)

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# Each interpreter with the versions that stand for its users; skips none: a missing one fails.
test-matrix:
	$(MAKE) test PYTHON=python3.11 VENV=.venv-3.11 CONSTRAINTS=constraints/python3.11.txt
	$(MAKE) test PYTHON=python3.12 VENV=.venv-3.12 CONSTRAINTS=constraints/python3.12.txt
	$(MAKE) test PYTHON=python3.13 VENV=.venv-3.13 CONSTRAINTS=constraints/colab-tpu.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python requirements.txt pyproject.toml
	$(RUN) -m pip install -qq $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[tensorboard,robustness]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python requirements.txt pyproject.toml
	$(RUN) -m pip install -qq $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/bin/python requirements.txt pyproject.toml
	$(RUN) -m pip install -qq $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[docs]'
	@touch $@

clean:
	rm -rf .venv .venv-* build/site
