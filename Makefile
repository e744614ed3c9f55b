# Every habit as a target. `make` or `make help` lists them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# ARGS is passed through: make test ARGS='-E "test(compile)"', make demo ARGS=--help
ARGS ?=
# INPUT is a glob that muster itself expands: make demo INPUT='notes/**/*.md'
INPUT ?=
export INPUT
# The cargo profile of the demo; `dev` uses what a developer has built anyway.
DEMO_PROFILE ?= demo

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# In CI the lock file is law.
LOCKED := $(if $(CI),--locked)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-13s %s\n", $$1, $$2 }'

.PHONY: toolchain
toolchain:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs, then try again" >&2; exit 1; }
	@cc="$${CC:-cc}"; command -v "$${cc%% *}" >/dev/null || { echo "a C compiler is missing ($$cc): install one (Debian, Ubuntu: sudo apt-get install build-essential; macOS: xcode-select --install), then try again" >&2; exit 1; }

.PHONY: build
build: toolchain ## Build the muster binary for development
	cargo build $(LOCKED) -p muster-cli --bin muster

.PHONY: demo
demo: toolchain ## Fan agents out over real files and reduce their answers (INPUT='dir/**/*.md')
	@if [[ -x "$(TARGET_DIR)/$(DEMO_PROFILE:dev=debug)/muster" ]]; then \
	  echo "==> building muster (only what changed since the last time)"; \
	else \
	  echo "==> building muster; the first time this takes two to three minutes on two cores. No server, key or further tool is needed."; \
	fi
	@cargo build $(LOCKED) --profile $(DEMO_PROFILE) -p muster-cli --bin muster
	@echo "==> running the demo"
	@cargo run --quiet $(LOCKED) --profile $(DEMO_PROFILE) -p muster-cli --bin muster -- demo $${INPUT:+--input "$$INPUT"} $(ARGS)

.PHONY: test
test: toolchain ## Run all tests beside private PostgreSQL and Redis servers (ARGS for nextest)
	@LOCKED=$(LOCKED) scripts/test $(ARGS)

.PHONY: verify
verify: toolchain ## The quick gate: format, clippy, rustdoc, dependencies and licences, scripts
	@LOCKED=$(LOCKED) scripts/verify

.PHONY: fmt
fmt: toolchain ## Format the Rust code
	cargo fmt --all

.PHONY: docs
docs: toolchain ## Build the API documentation of the workspace
	cargo doc $(LOCKED) --workspace --no-deps
	@echo "open $(TARGET_DIR)/doc/muster_shared/index.html"

.PHONY: bench-quick
bench-quick: toolchain ## Measure steps per second beside the raw floor, in a few minutes
	cargo build $(LOCKED) --release -p muster-cli -p muster-bench
	scripts/with-servers "$(TARGET_DIR)/release/muster-bench" quick $(ARGS)

.PHONY: clean
clean: ## Remove what cargo built (not the data in .muster)
	cargo clean
