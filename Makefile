# `make run` and `make test` set up everything that is missing and go. ARGS are handed on: make run ARGS='--series netkit'
.PHONY: run test setup lint unit e2e faults bench docs coverage clean

run: setup
	@.venv/bin/kproof run $(ARGS)

test: setup lint unit e2e

setup:
	@ci/setup

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

unit: setup
	.venv/bin/pytest tests/unit -n 2 -q $(ARGS)

e2e: setup
	.venv/bin/pytest tests/e2e -v -rs -m "not slow" $(ARGS)

# Every fault that kproof must survive, provoked for real, and the table of what became of it; `make test` has the fast ones
faults: setup
	.venv/bin/pytest tests/e2e/faults tests/e2e/test_judgement.py -v -rs -k "faults or leak_fails" $(ARGS)

# How fast guests answer, against virtme-ng on the same kernel
bench: setup
	@.venv/bin/python ci/bench.py

# The transcripts in docs/, from guests. ARGS: a recipe other than debian:6.12 with all series
docs: setup
	@.venv/bin/python ci/docs.py $(ARGS)

# docs/coverage.md: from promise to test to mutant, without a guest; what does not agree is told
coverage: setup
	@.venv/bin/python -m ci.coverage

# The project's own leftovers; kernels and downloads stay in the user's cache (kproof kernels prune)
clean:
	rm -rf build results .venv .mypy_cache .ruff_cache .pytest_cache
