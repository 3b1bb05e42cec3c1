# Everything runs from .venv, which each target makes by itself with the machine's python3, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test run lint bench wheel requirements run-websocket run-websocket-demo test-websocket clean

demo: $(READY)  ## start a server, let a real client hold a conversation with it, print both sides
	@$(BIN)/qaws demo

test: $(READY)  ## run the tests; ARGS="-k name" selects some
	@$(BIN)/python -m pytest $(ARGS)

run: $(READY)  ## serve on ws://localhost:8765/ for development; ARGS="--port 9000" and the like
	@$(BIN)/qaws serve --dev $(ARGS)

lint: $(READY)  ## style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY)  ## every benchmark; see benchmarks/
	@$(BIN)/python -m benchmarks all

wheel: $(READY)  ## build the wheel, install it with [all] into an empty environment elsewhere, run its demo
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	$(BIN)/python -m build --no-isolation --outdir "$$folder/dist" . >/dev/null && \
	$(PYTHON) -m venv "$$folder/venv" && \
	"$$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$$(echo "$$folder"/dist/*.whl)[all]" && \
	cd "$$folder" && venv/bin/qaws demo

run-websocket: run
run-websocket-demo: demo
test-websocket: test

requirements: $(READY)  ## pin the development tools again
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-emit-find-links --upgrade --all-extras --group dev --output-file .ci/requirements.txt pyproject.toml

clean:  ## forget what was set up
	@rm -rf $(VENV)

$(READY): pyproject.toml .ci/requirements.txt
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
