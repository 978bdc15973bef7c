# The project's commands. `make` alone lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench docs notebook clean

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

install: $(INSTALLED)  ## create .venv and install everything

# learn2learn's source ships C files that today's Python cannot compile; build_ext makes Cython write them anew. --no-deps leaves out qpth
# (which holds numpy below 2) and gsutil; what learn2learn imports comes with the extra `l2l`.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[l2l]' --group dev
	$(BIN)/python -m pip install --quiet --use-pep517 --no-deps --config-settings=--build-option=build_ext learn2learn==0.2.0
	@touch $@

demo: $(INSTALLED)  ## meta-train on drawn characters and print the accuracy (minutes, offline)
	$(BIN)/metalearn train

test: $(INSTALLED)  ## all tests but those that train for minutes (10 to 30 minutes)
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(INSTALLED)  ## lint, format, types and the fast tests (minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow and not thorough'

format: $(INSTALLED)  ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## speed beside learn2learn, compared with the stored ratios (minutes, offline)
	$(BIN)/metalearn bench tasks steps --quick --against benchmarks/results/pinned.json

docs: $(INSTALLED)  ## build the documentation site, offline: build/site/index.html
	$(BIN)/python scripts/config_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file scripts/mkdocs.yml

notebook: $(INSTALLED)  ## run docs/tour.ipynb and store its outputs (minutes, offline)
	$(BIN)/python scripts/notebook.py

clean:  ## remove what was built, not what runs wrote
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
