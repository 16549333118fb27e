# Everything one does here. `make` alone lists it.
# PYTHON=/path/to/python3 names the Python that .venv is made with. TESTS=tests/billing runs a part of the tests;
# ARGS="-k wallet" goes to the command behind a target.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
TESTS ?= tests
ARGS ?=
MEMBERS := shared services/api services/dialer services/webhook-dispatcher services/billing infra/simulator infra/local
# A member's pyproject is one of the things that, changed, make the next target install again.
MEMBER_FILES := $(addsuffix /pyproject.toml,$(MEMBERS))
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/runtime ## Start everything, place calls, show each one's life, stop (no telephone rings)
	@exec $(BIN)/python -m cualify_local demo $(ARGS)

.PHONY: up
up: $(VENV)/runtime ## Start everything and stay in the foreground; the API is on port 8000
	@exec $(BIN)/python -m cualify_local up $(ARGS)

.PHONY: test
test: $(VENV)/dev ## Run the tests
	@exec $(BIN)/python -m pytest $(TESTS) -m "not bench and not faults" $(ARGS)

.PHONY: check
check: $(VENV)/dev ## Lint, formatting, types, imports, requirements, generated files
	@$(BIN)/ruff check . && echo "ruff format:" && $(BIN)/ruff format --check .
	@echo "mypy:" && $(BIN)/python -m mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pip --disable-pip-version-check check
	@$(BIN)/python -m cualify_shared.events.generate --check && echo "Generated files are up to date."

.PHONY: bench
bench: $(VENV)/dev ## Measure speed
	@exec $(BIN)/python -m pytest $(TESTS) -m bench -s $(ARGS)

.PHONY: faults
faults: $(VENV)/dev ## Kill and cut things while calls run, and check that what must hold still does
	@exec $(BIN)/python -m pytest $(TESTS) -m faults $(ARGS)

.PHONY: schemas
schemas: $(VENV)/runtime ## Write the event schemas from the catalogue again
	@$(BIN)/python -m cualify_shared.events.generate

# Universal and hash-pinned; what both lists hold has one version. No address of a registry is written down.
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-header --no-emit-index-url --no-emit-find-links

.PHONY: lock
lock: $(VENV)/made ## Resolve the dependencies again, to their newest versions
	@$(PIP) install uv
	@echo "Resolving ..."
	@rm -f requirements.lock requirements-dev.lock
	@$(UV_COMPILE) pyproject.toml --output-file requirements.lock
	@$(UV_COMPILE) pyproject.toml --group dev --constraints requirements.lock --output-file requirements-dev.lock
	@! grep -n '://' requirements.lock requirements-dev.lock

.PHONY: clean
clean: ## Remove .venv, the local stack's data and logs, and caches
	@find .local -maxdepth 3 -type l -lname '/var/lib/cualify-local/*' 2>/dev/null | while read -r link; do \
		rm -rf "$$(dirname "$$(readlink "$$link")")"; done
	@rm -rf $(VENV) .local .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what the targets above need ---

$(VENV)/runtime: requirements.lock $(MEMBER_FILES) | $(VENV)/made
	@echo "Installing what Cualify runs on (once; half a minute or more) ..."
	@$(PIP) install --require-hashes --prefer-binary -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation $(addprefix -e ,$(MEMBERS))
	@touch $@

$(VENV)/dev: requirements-dev.lock $(MEMBER_FILES) | $(VENV)/made
	@echo "Installing what Cualify, its tests and its checks run on (once; half a minute or more) ..."
	@$(PIP) install --require-hashes --prefer-binary -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation $(addprefix -e ,$(MEMBERS))
	@touch $@ $(VENV)/runtime

$(VENV)/made:
	@for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14); do \
		"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
		"$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1 || { novenv=$$candidate; continue; }; \
		echo "Making $(VENV) with $$("$$candidate" --version) ..."; \
		"$$candidate" -m venv --clear $(VENV) && touch $@ && exit 0; exit 1; \
	done; \
	if [ -n "$$novenv" ]; then echo "$$novenv has no venv module: install it (Debian, Ubuntu: apt-get install python3-venv)"; \
	else echo "Cualify needs Python 3.11 or newer: install it, or name one with PYTHON=/path/to/python3"; fi >&2; exit 1
