# .venv, sweep, test, test-all, check, docs, clean: everything a person or the CI calls.
PYTHON ?= python3
BIN := .venv/bin
FLAGS ?=

# Every process of a test run would compile the checkout's modules and rewrite the tests' assertions anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: sweep test test-all long plain-tests ray-tests cluster-tests check docs format bench lock clean

# The environment, exactly as locked. Without the venv module (Debian packages it apart), virtualenv makes it. uv installs it in
# a fifth of pip's time; pip does where uv cannot be had.
.venv: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv || ($(PYTHON) -m pip install --user --break-system-packages virtualenv && $(PYTHON) -m virtualenv .venv)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo "uv cannot be had: pip takes some minutes"
	if $(BIN)/python -m uv --version > /dev/null 2>&1; then install="uv pip install --compile-bytecode"; \
	else install="pip install --disable-pip-version-check"; fi; \
	$(BIN)/python -m $$install --quiet -r requirements.lock && \
	$(BIN)/python -m $$install --quiet --no-deps --no-build-isolation -e .
	@touch .venv

sweep: .venv
	$(BIN)/python studies/kernel_sweep.py --preset demo $(FLAGS)

# Tests that start Ray run in a process of their own. They leave two processors idle for nearly half of their time, which the
# others take at a lower priority; what they say is printed after the others.
test: .venv
	@$(MAKE) --no-print-directory --jobs 2 plain-tests ray-tests SPEED="not slow"; code=$$?; cat .pytest-ray.log; exit $$code

# Every test there is: those of `test`, then the long ones.
test-all: test long

# Shape annotations are executed in `test`; the long ones, a fifth of whose time that takes, go through the same code. Those
# that start Ray are two lots of about the same length, side by side.
long: .venv
	@MLDIV_SHAPES=unchecked $(MAKE) --no-print-directory --jobs 3 plain-tests ray-tests cluster-tests SPEED=slow OTHER=--ignore=tests/cluster; \
	code=$$?; cat .pytest-ray.log .pytest-cluster.log; exit $$code

plain-tests:
	@nice -n 19 $(BIN)/python -m pytest -m "not ray and $(SPEED)" --numprocesses auto --dist loadfile $(FLAGS)

ray-tests:
	@$(BIN)/python -m pytest -m "ray and $(SPEED)" $(OTHER) $(FLAGS) > .pytest-ray.log 2>&1

cluster-tests:
	@$(BIN)/python -m pytest tests/cluster -m "ray and $(SPEED)" $(FLAGS) > .pytest-cluster.log 2>&1

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, into build/site; strictly: a link that leads nowhere ends it (--quiet would not count warnings). What it takes is nobody else's to install.
docs: .venv-docs
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict

.venv-docs: docs/site/requirements.txt | .venv
	$(BIN)/python -m virtualenv --quiet .venv-docs
	$(BIN)/python -m uv pip install --quiet --python .venv-docs/bin/python -r docs/site/requirements.txt || \
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r docs/site/requirements.txt
	@touch .venv-docs

format: .venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Half an hour on two quiet cores; each writes its table to benchmarks/*.md. The rivals come without what they do not need here.
bench: .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	for name in step evaluation sweep growth precision analysis; do $(BIN)/python benchmarks/$$name.py || exit 1; done

# Needs uv. One resolution for every platform; no addresses in it.
lock:
	uv pip compile --universal --no-header --no-emit-index-url --python-version 3.11 --extra aws --extra dev -o requirements.lock pyproject.toml
	uv pip compile --universal --no-header --no-emit-index-url --python-version 3.11 -o docs/site/requirements.txt docs/site/requirements.in

clean:
	rm -rf .venv .venv-docs .pytest-ray.log .pytest-cluster.log build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
