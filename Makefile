# Everything runs from .venv, which each target makes by itself with the machine's python3, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILE = $(BIN)/uv pip compile pyproject.toml --quiet --python-version 3.11 --all-extras --no-header \
	--no-emit-index-url --no-emit-find-links

.DELETE_ON_ERROR:
.PRECIOUS: $(VENV)/%/.ready
.PHONY: demo test test-all test-others run lint bench instructions soak autobahn coverage mutate wheel requirements clean \
	compiled test-on-compiled simulate-on-compiled run-websocket run-websocket-demo test-websocket

demo: $(READY)  ## start a server, let a real client hold a conversation with it, print both sides
	@$(BIN)/qaws demo

test: $(READY)  ## run the tests; ARGS="-k name" selects some
	@$(BIN)/python -m pytest $(ARGS)

test-all: test test-others  ## the tests on each CPython from 3.11 on that is here, and with the lowest versions allowed

test-others: $(READY)  ## what test-all does beside test
	@set -e; versions=$$($(BIN)/python .ci/pythons.py); for version in $$versions; do \
		[ -e $(BIN)/python$$version ] || $(MAKE) --no-print-directory test-on-$$version; \
	done
	@$(MAKE) --no-print-directory test-on-lowest

test-on-%: $(VENV)/%/.ready  ## the tests in another environment: test-on-3.12, or test-on-lowest
	@echo "tests on $*"
	@$(VENV)/$*/bin/python -m pytest $(ARGS)

test-on-compiled: compiled  ## the tests on the core compiled; ARGS="tests/wire" and the like, or it takes as long as test
	@cd $(TREE) && ../bin/python -m pytest $(ARGS)

simulate-on-compiled: compiled  ## simulated worlds on both cores, which have to come to one trace; ARGS="--seeds 300"
	@set -e; cd $(VENV)/compiled; for bin in ../bin bin; do \
		$$bin/qaws simulate $(ARGS) >worlds.txt; tail -n 1 worlds.txt; \
	done >traces.txt; uniq -c traces.txt; [ "$$(uniq traces.txt | wc -l)" -eq 1 ]

compiled: $(VENV)/compiled/.ready  ## the core as extension modules (mypyc), in .venv/compiled/tree
	@$(unpack)

run: $(READY)  ## serve on ws://localhost:8765/ for development; ARGS="--port 9000" and the like
	@$(BIN)/qaws serve --dev $(ARGS)

lint: $(READY)  ## style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY)  ## every benchmark, about half an hour; ARGS="--rounds 5 --plots FOLDER" and the like
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(VENV)/node/.ready || true; fi
	@if $(BIN)/python .ci/compiler.py; then \
		$(MAKE) --no-print-directory compiled && export QAWS_COMPILED=$(VENV)/compiled; \
	fi && $(BIN)/python -m benchmarks all $(ARGS)

instructions: $(READY)  ## count what the core takes (valgrind) against benchmarks/instructions.json; ARGS=--write renews it
	@$(BIN)/python -m benchmarks instructions $(ARGS)

soak: $(READY)  ## ten minutes of constant load, honest and abusive; fails where memory or descriptors grow; ARGS="--minutes 60"
	@$(BIN)/python -m benchmarks soak $(ARGS)

autobahn: $(VENV)/autobahn/.ready  ## the Autobahn|Testsuite against every server and the client; ARGS="--share" for what CI runs
	@$(BIN)/python -m tests.autobahn $(ARGS)

coverage: $(READY)  ## branch coverage of the core, which must be whole; ARGS=--each: also by each module's own tests
	@$(BIN)/python -m tests.proofs.branches $(ARGS)

mutate: $(READY)  ## faults in the core, and whether tests find them; ARGS="wire/frames.py" or ARGS="--sample 300 --seed 1"
	@$(BIN)/python -m tests.proofs.mutants $(ARGS)

wheel: $(READY)  ## build the wheel, and one with the core compiled; install each into an empty environment, run its demo
	@$(call demo_of_wheel,HATCH_BUILD_HOOKS_ENABLE=,False)
	@if $(BIN)/python .ci/compiler.py; then $(call demo_of_wheel,HATCH_BUILD_HOOKS_ENABLE=1,True); \
	elif [ -z "$$CI" ]; then echo "the wheel with the core compiled is left out"; else exit 1; fi

# $(1) chooses what is built, $(2) is whether its core is compiled.
define demo_of_wheel
folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
$(1) $(BIN)/python -m build --no-isolation --outdir "$$folder/dist" . >/dev/null && \
$(PYTHON) -m venv "$$folder/venv" && \
"$$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$$(echo "$$folder"/dist/*.whl)[all]" && \
cd "$$folder" && venv/bin/python -c "import qaws_proto; assert qaws_proto.COMPILED is $(2)" && \
venv/bin/qaws --version && venv/bin/qaws demo
endef

run-websocket: run
run-websocket-demo: demo
test-websocket: test

requirements: $(READY)  ## pin the development tools again
	@$(COMPILE) --universal --generate-hashes --upgrade --group dev --output-file .ci/requirements.txt

clean:  ## forget what was set up
	@rm -rf $(VENV)

$(READY): pyproject.toml .ci/requirements.txt
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .ci/requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# For Node.js: the library of a peer in the benchmarks and of a foreign client in the tests, and what that peer needs.
$(VENV)/node/.ready: Makefile
	@npm install --silent --no-save --no-package-lock --no-audit --no-fund --prefix $(@D) \
		ws@8.23.0 ajv@8.20.0 jose@6.2.18
	@touch $@

# Environments for other Pythons and other versions. uv makes them in seconds, and needs nothing from that Python.
define environment
@python="$$($(BIN)/python .ci/pythons.py $(1))" && $(BIN)/uv venv --quiet --clear --python "$$python" $(@D)
@$(BIN)/uv pip install --quiet --python $(@D) --require-hashes --requirements $(2)
@$(BIN)/uv pip install --quiet --python $(@D) --no-deps --no-build-isolation --editable .
@touch $@
endef

$(VENV)/%/.ready: pyproject.toml .ci/requirements.txt | $(READY)
	$(call environment,$*,.ci/requirements.txt)

$(VENV)/lowest/.ready: $(VENV)/lowest.txt | $(READY)
	$(call environment,3.11,$<)

# What users install at the lowest versions allowed, the development tools as they are pinned where these let them.
$(VENV)/lowest.txt: pyproject.toml .ci/requirements.txt | $(READY)
	@$(COMPILE) --resolution lowest-direct >$(VENV)/floors.txt
	@cp .ci/requirements.txt $@
	@$(COMPILE) --generate-hashes --group dev --constraint $(VENV)/floors.txt --output-file $@

# The core compiled, in a tree of its own: beside sources that are edited, extension modules would hide what is changed.
# Whatever else is changed is put there by `make compiled`.
TREE := $(VENV)/compiled/tree
define unpack
rm -rf $(TREE)/../dist && $(BIN)/hatchling build --target sdist --directory $(TREE)/../dist >/dev/null && \
	mkdir -p $(TREE) && find $(TREE) -name '*.py' -delete && tar -xzmf $(TREE)/../dist/*.tar.gz --strip-components 1 -C $(TREE)
endef

$(VENV)/compiled/.ready: $(shell find qaws_proto -name '*.py') pyproject.toml .ci/requirements.txt | $(READY)
	@$(BIN)/python .ci/compiler.py
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D) --require-hashes --requirements .ci/requirements.txt
	@$(unpack)
	@HATCH_BUILD_HOOKS_ENABLE=1 $(BIN)/uv pip install --quiet --python $(@D) --no-cache --no-deps --no-build-isolation \
		--editable $(TREE)
	@touch $@

# The Autobahn|Testsuite runs on CPython 2.7 alone: PYTHON2=/path/to/python2.7 where it is not found by itself.
$(VENV)/autobahn/.ready: .ci/autobahn.txt .ci/virtualenv.txt | $(READY)
	@$(BIN)/uv pip install --quiet --target $(VENV)/virtualenv --require-hashes --requirements .ci/virtualenv.txt
	@python2="$${PYTHON2:-$$($(BIN)/python .ci/pythons.py 2.7)}" && [ -n "$$python2" ] || \
		{ echo "install CPython 2.7 (pyenv install 2.7.18), or say where it is: PYTHON2=/path/to/python2.7" >&2; exit 1; } && \
	PYTHONPATH=$(VENV)/virtualenv $(BIN)/python -m virtualenv --quiet --clear --no-periodic-update \
		--python "$$python2" $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check --no-python-version-warning --require-hashes \
		--requirement .ci/autobahn.txt
	@touch $@
