# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
# Bytecode is compiled when first used instead of for all of torch at once: the install takes half the time.
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check

.PHONY: demo test check slow lint clean bench bench-ui bench-fidelity bench-peers bench-memorization

demo: .venv/.installed
	$(BIN)/explorer demo

test: .venv/.tested check

# What CI runs; needs the environment of `make test`. Two at a time: browsers and workers mostly wait.
# Tests marked slow (minutes in all: each theme again, pages of single parts, dying workers, small benchmarks) are left to `make slow`.
check: lint
	$(BIN)/python -m pytest -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder --durations=25

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The slow tests too: minutes. EXPLORER_DATA=folder adds those that need the real data sets.
slow: .venv/.tested
	$(BIN)/python -m pytest

# The job's longest stage beside the bare matrix products of the same shapes, and its memory; then EK-FAC over all layers:
# where its time goes beside the floor, and how it grows. Minutes; EXPLORER_DATA=folder adds the real data sets.
bench: .venv/.tested
	$(BIN)/python -m tests.bench.scores
	$(BIN)/python -m tests.bench.engine

# The screen in a real Chromium, beside the least a click can cost: about ten minutes. EXPLORER_DATA=folder measures MNIST;
# runs are kept in $EXPLORER_BENCH, else below ~/.cache (a million made-up examples: 1.2 GB).
bench-ui: .venv/.tested
	$(BIN)/python -m tests.bench.ui

# Are the scores true? Every method against real retrainings, on four problems; the first time tens of minutes. EXPLORER_DATA=folder
# adds Fashion-MNIST; retrainings are kept in $EXPLORER_BENCH, else below ~/.cache.
bench-fidelity: .venv/.tested
	$(BIN)/python -m tests.bench.fidelity --write

# Which score finds what was memorized, and wrong labels? Beside the subset estimator and other libraries: about an hour.
# EXPLORER_DATA=folder adds Fashion-MNIST and the verified errors of MNIST's test labels.
bench-memorization: .venv/.tested
	$(PIP) cleanlab
	$(BIN)/python -m tests.bench.memorization
	if [ -n "$$EXPLORER_DATA" ]; then for data in fashion mnist-test; do $(BIN)/python -m tests.bench.memorization --data $$data; done; fi

# The same beside other libraries. Two of them declare torchvision, which they do not need and which would fetch CUDA.
PEERS := kronfluence==1.0.1 curvlinops-for-pytorch==3.0.1 backpack-for-pytorch unfoldNd linear_operator einconv einops opt_einsum \
  accelerate traker==0.3.2 dattri==0.3.0 captum==0.9.0 pretty_midi mido importlib_resources six matplotlib contourpy cycler \
  fonttools kiwisolver pyparsing PyYAML "setuptools<81"
bench-peers: .venv/.tested
	$(PIP) --no-deps $(PEERS)
	$(PIP) huggingface_hub
	$(BIN)/python -m tests.bench.fidelity --peers --write
	$(BIN)/python -m tests.bench.engine --peers --only speed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/.tested: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) -e '.[test]'
	touch $@ .venv/.installed

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
