# Every target makes the virtual environment if it is missing: `make quickstart` works on a fresh machine.
# `make quickstart DATA=FOLDER` runs on published files instead of the simulated Sun.
VENV ?= .venv
PYTHON ?= python3
INSTALLED := $(VENV)/.installed
EXTRAS := app,builder,release,test

.PHONY: quickstart test test-floors install style types bench release

quickstart: $(INSTALLED)
	$(VENV)/bin/solared quickstart $(if $(DATA),--data '$(DATA)')

# The tests of a file run in one process, because they share costly fixtures. Each process has one thread, because the
# threads of torch would compete with the other processes.
run_tests = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

test: style
	$(call run_tests,$(VENV))

# Run the tests with the lowest versions that pyproject.toml allows, in a separate environment. Run it before a release,
# and when one of these versions changes.
FLOORS := $(VENV)-floors
FLOORS_PYTHON ?= 3.11

test-floors: $(FLOORS)/.installed
	$(FLOORS)/bin/python scripts/floors.py
	$(call run_tests,$(FLOORS))

$(FLOORS)/.installed: pyproject.toml $(INSTALLED)
	$(VENV)/bin/python -m uv venv --quiet --clear --python $(FLOORS_PYTHON) $(FLOORS)
	$(VENV)/bin/python -m uv pip install --quiet --python $(FLOORS)/bin/python --resolution lowest-direct \
		--editable '.[$(EXTRAS)]'
	@touch $@

style: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/typos

# Minutes the first time, seconds after that.
types: $(INSTALLED)
	$(VENV)/bin/mypy

bench: $(INSTALLED)
	@set -e; for benchmark in scripts/benchmarks/*.py; do echo "== $$benchmark"; $(VENV)/bin/python $$benchmark; done

# Build the package and try it in an empty environment (some minutes, 9 GB). Nothing is published.
release: $(INSTALLED)
	$(VENV)/bin/python scripts/release.py

install: $(INSTALLED)

# uv is several times faster; pip is the fallback, because it knows mirrors and settings that uv does not.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/python -m uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --editable '.[$(EXTRAS)]' || \
		$(VENV)/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@
