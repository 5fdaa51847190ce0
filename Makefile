# `make run` builds the gateway and runs it on a real example; `make test` passes all the tests. Both install what they need.
SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help setup run test build release check fmt lint gate steps bench clean

help:          ## what there is
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup:
	@.ci/setup

run: setup     ## run the gateway on examples/quickstart.yaml, with a small upstream to talk to
	cargo build --profile quick -p ringway -p bench-harness
	@.ci/demo

test: setup    ## all tests, on both drivers
	cargo test --workspace

build: setup   ## a release binary, quickly: target/release/ringway
	cargo build --release

release: setup ## the binary to deploy, laid out by what a first one counted under load: target/dist/ringway
	@.ci/release

check: setup   ## types only
	cargo check --workspace --all-targets

fmt:           ## format
	cargo fmt --all

lint: setup    ## clippy, warnings denied
	cargo clippy --workspace --all-targets -- -D warnings

gate:          ## what a request costs in system calls, ring operations and instructions, against budgets; no clock is read
	@.ci/setup strace valgrind
	cargo build --release -p ringway -p bench-harness
	target/release/bench-harness gate --ringway target/release/ringway --all

steps: setup   ## the steps of a request by themselves, beside the baseline in benches/ (another machine's: look at changes, not at times)
	CRITERION_HOME=$(CURDIR)/benches/baseline cargo bench -p ringway --bench hot_path -- --baseline committed

bench: setup   ## the gateway beside nginx and HAProxy (docs/performance.md)
	cargo build --release --workspace
	target/release/bench-harness compare

clean:         ## build output
	cargo clean
