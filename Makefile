# A fresh clone needs Python 3.11 or 3.12 and make; everything else is built in .venv/.
#   make demo        the whole chain on the embedded videos; the last line is the report's path
#   make test        lint, types, tests, notebooks; test-all also the tests marked slow, as CI does
# Where the plain index serves a torch build with CUDA and the CPU build is wanted:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(or $(shell for p in python3 python3.12 python3.11; do \
	$$p -c '$(SUITABLE)' 2>/dev/null && echo $$p && break; done),python3)
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SANITIZE := $(wildcard tests/notebooks/sanitize.cfg)
NOTEBOOKS := $(wildcard notebooks/0?_*.ipynb)

.PHONY: install demo weights test test-all lint package-test notebooks-test notebooks-outputs clean
.DEFAULT_GOAL := install

install: $(STAMP)

# TrackEval goes in without its dependencies: they bring opencv-python, which breaks the headless build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c '$(SUITABLE)' || \
		{ echo "motrlab needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)/ (some minutes the first time)"
	@$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[kit,test]'
	@$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --no-deps trackeval==1.3.0
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m motrlab run --preset street --run demo

# The weights and the artefact that come with motrlab, from a whole run of `street`.
weights: demo
	$(BIN)/python -m motrlab ship --run demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy motrlab

# Lint, the notebooks and the tests side by side; JOBS processes share the files of tests, each on one thread.
JOBS ?= $(shell nproc 2>/dev/null || echo 1)
MARK := not slow

test: $(STAMP)
	@$(MAKE) --no-print-directory --output-sync=line -j3 lint notebooks-test package-test

test-all:
	@$(MAKE) --no-print-directory MARK= test

package-test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:nbval -n $(JOBS) --dist loadfile -m "$(MARK)" tests

# The stored outputs of the notebooks against fresh ones, in order, in a throw-away project folder.
notebooks-test: $(STAMP)
ifneq ($(NOTEBOOKS),)
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && MOTRLAB_HOME=$$home OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbval -q \
		--nbval-current-env --nbval-cell-timeout 900 $(addprefix --nbval-sanitize-with ,$(SANITIZE)) $(sort $(NOTEBOOKS))
endif

# Execute the notebooks on the smoke preset and store their outputs, which nbval compares with; of cells' metadata only
# tags stay, so that times of execution change nothing.
notebooks-outputs: $(STAMP)
	home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && MOTRLAB_HOME=$$home OMP_NUM_THREADS=1 $(BIN)/python -m nbconvert \
		--to notebook --execute --inplace --ExecutePreprocessor.extra_arguments=--log-level=ERROR \
		--ClearMetadataPreprocessor.enabled=True --ClearMetadataPreprocessor.clear_notebook_metadata=False \
		--ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags $(sort $(NOTEBOOKS))

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find motrlab tests -name __pycache__ -type d -prune -exec rm -rf {} +
