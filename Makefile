# Two commands for a new user: `make demo` and `make test`. Every target sets up .venv first, which is instant when it is done.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-oldest lint bench

setup:
	@$(PYTHON) scripts/setup.py

demo: setup
	@$(BIN)/chiasm demo

test: setup
	@$(BIN)/python -m pytest -q -n 2

# The oldest transformers that is promised, laid over the same environment.
test-oldest: setup
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --upgrade --target .venv/oldest "transformers==5.19.*"
	@PYTHONPATH=.venv/oldest $(BIN)/python -m pytest -q tests/test_model.py tests/citizenship

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/ty check

bench: setup
	@for file in bench/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done
