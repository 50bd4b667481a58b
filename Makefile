# make try    set up, edit a real picture with the built-in model, say where the result is
# make test   set up with the development tools, then what CI runs: lint and tests
# make lint   style, types, direction of imports

PYTHON      ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
                 $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV        ?= .venv
PHOTO       ?= examples/pictures/meadow.jpg
INSTRUCTION ?= make it look like dusk
OUT         ?= out/try.png

BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEPS := pyproject.toml constraints.txt

.PHONY: try test lint format clean

try: $(VENV)/.installed
	@mkdir -p $(dir $(OUT))
	$(BIN)/paintover edit "$(PHOTO)" "$(INSTRUCTION)" -o "$(OUT)" --force
	@echo "The picture before: $(abspath $(PHOTO))"
	@echo "The picture after:  $(abspath $(OUT))"

# The tests' models are tiny: one thread a process is fastest, and the same everywhere.
test: $(VENV)/.installed-dev lint
	$(BIN)/python tests/fetch_pillow_images.py
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "paintover needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 try" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(DEPS) | $(BIN)/python
	@echo "Installing paintover into $(VENV) (about 1 GB, a few minutes) ..."
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(DEPS) | $(BIN)/python
	@echo "Installing paintover and its development tools into $(VENV) ..."
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis
