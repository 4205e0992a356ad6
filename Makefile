# The only commands a newcomer needs: `make demo` runs the main job on a real cluster, `make test` passes every test.
# Both set up what is missing (see tests/cluster/engine) and can be repeated.

SHELL := /bin/bash
.DEFAULT_GOAL := help
STAGING := target/staging
# `docker compose` comes from a private DOCKER_CONFIG where the engine's client has no Compose v2 plugin.
ENV = source tests/cluster/env;

.PHONY: help toolchain build demo cluster cluster-down test test-unit fuzz test-e2e fidelity bench lint fmt

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

toolchain:
	@tests/toolchain

build: toolchain ## one self-contained binary: target/release/tpdocker
	cargo build --release --locked

demo: build cluster ## the main job on the staging example, from nothing, on a real cluster
	@$(ENV) tests/demo

cluster: ## a real Kubernetes in a container, with the staging example on it
	@tests/cluster/up

cluster-down: ## remove it (what was built for it stays in the cache)
	@tests/cluster/down

test: lint test-unit test-e2e fidelity ## everything

test-unit: toolchain ## unit, protocol, capture (own network namespaces, as root) and command-line tests
	cargo test --locked --workspace --exclude tpdocker
	cargo test --locked -p tpdocker --lib --test cli --test plan

fuzz: toolchain ## every fuzz target under libFuzzer for 20 s (the tests run them bounded; see tests/fuzz)
	tests/fuzz/run

test-e2e: cluster ## the product against the real cluster and the real engine
	@$(ENV) cargo test --locked -p tpdocker --test docker --test kube --test e2e -- --test-threads=1

fidelity: cluster ## what the container sees, row for row beside what the pod sees (target/fidelity.json)
	@$(ENV) cargo test --locked -p tpdocker --test fidelity

bench: build cluster ## tpdocker beside kubectl port-forward
	@$(ENV) cargo bench --locked -p tpdocker --bench compare

lint: toolchain ## rustfmt and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

fmt:
	cargo fmt --all
