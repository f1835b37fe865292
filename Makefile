# Thin: every target is one command that a person could type. `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
E2E := cargo run --quiet --package trainyard-e2e --
CACHE := $(or $(TRAINYARD_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/trainyard)
# What was compiled outlives a checkout where checkouts come and go; what is kept between two edits does not help there.
ifdef CI
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_INCREMENTAL ?= 0
endif
CARGO_DENY := $(CACHE)/tools/bin/cargo-deny
CARGO_DENY_VERSION := 0.20.2

.PHONY: help demo demo-gitops test bench cluster cluster-down images install generate lint unit api faults faults-crashes faults-sample faults-full soak soak-sample store many-files chart stories docs e2e-tensorflow e2e-torch fuzz fuzz-short

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | column -t -s '|'

demo: ## from a bare machine to a trained model: cluster, store, Trainyard, one run of examples/iris
	$(E2E) demo

demo-gitops: ## commits, a revert and new data, and what becomes of the model: examples/gitops-iris
	$(E2E) demo --gitops

test: lint unit fuzz-short chart api store faults-sample soak-sample stories ## everything that must hold

bench: ## measure what the documents claim; writes target/bench/results.json
	cargo run --quiet --release --package trainyard-e2e -- bench

cluster: ## a real Kubernetes on this machine; the first time its programs are built: ten minutes
	$(E2E) cluster up

cluster-down: ## stop it and remove all that it made
	$(E2E) cluster down

images: ## every image of deploy/images, into that cluster or the one of KUBECONFIG
	$(E2E) image load

install: ## operator and runner as they are in this tree, by the chart, into that cluster
	$(E2E) install

generate: ## what is generated from the API types: CRDs, chart, kustomize base, reference
	cargo run --quiet --package trainyard-crds --features crdgen --bin crdgen
	$(E2E) tools -- charts/generate.sh

lint: $(CARGO_DENY) ## format, lints, documentation, licences
	cargo fmt --all --check
	cargo fmt --manifest-path e2e/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	$(CARGO_DENY) --log-level error check bans licenses sources
	$(CARGO_DENY) --log-level error --manifest-path e2e/fuzz/Cargo.toml --config deny.toml check bans licenses sources

$(CARGO_DENY):
	cargo install cargo-deny --version $(CARGO_DENY_VERSION) --locked --root $(CACHE)/tools

unit: ## every test that needs no cluster
	cargo test --workspace --all-features --lib --bins
	cargo test --workspace --doc
	cargo test --package trainyard-planner --package step-protocol --package trainyard-crds --package trainyard-operator --all-features --tests

chart: ## the chart and the kustomize base: rendered, then installed on a real API server
	$(E2E) tools -- charts/test.sh
	kubeconfig=$$($(E2E) cluster up --name chart --control-plane --with-controller-manager); \
	KUBECONFIG=$$kubeconfig $(E2E) tools -- charts/test-live.sh
	$(E2E) cluster down --name chart --wipe

api: ## the API types, and the YAML of the documents, on a real API server
	cargo test --package trainyard-e2e --test api --test architecture --test images --test docs --test gitops

store: ## the runner, and its stores: files, a volume, a real S3 server
	cargo build --quiet --package step-runner
	$(E2E) store local -- cargo test --package step-runner --tests

many-files: ## an output of a million files there and back
	TRAINYARD_TEST_FILES=1000000 cargo test --package step-runner --test hostile very_many -- --nocapture

fuzz: ## every parser fuzzed, SECONDS=300 for each of them
	e2e/fuzz/run.sh $(or $(SECONDS),300)

fuzz-short: ## the same for 20 seconds each
	e2e/fuzz/run.sh 20

faults: ## the gate of the fault sweep: 4,200 cases and 16 mutants; 20 minutes
	TRAINYARD_FAULTS_SIZE=gate cargo test --package trainyard-e2e --test faults -- --nocapture

faults-crashes: ## the operator killed at every write of every workload
	TRAINYARD_FAULTS_SIZE=crashes cargo test --package trainyard-e2e --test faults -- --nocapture

faults-sample: ## a seeded choice of it: 530 cases; five minutes
	TRAINYARD_FAULTS_SIZE=sample cargo test --package trainyard-e2e --test faults -- --nocapture

faults-full: ## all of it: an hour
	TRAINYARD_FAULTS_SIZE=full cargo test --package trainyard-e2e --test faults -- --nocapture

soak: ## a thousand runs of ten stages while one request and one Pod in a hundred meet a fault: all are right, and memory stays
	TRAINYARD_SOAK_RUNS=1000 cargo test --package trainyard-e2e --test soak -- --nocapture

soak-sample: ## fifty of them
	cargo test --package trainyard-e2e --test soak -- --nocapture

e2e-tensorflow: ## TensorFlow on two Pods: apart, since its packages are 0.3 GB and its image 1.4 GB
	cargo test --package trainyard-e2e --test heavy tensorflow -- --nocapture

e2e-torch: ## PyTorch on two Pods, plain and under torchrun: apart, since its packages are 3 GB and its image 7 GB
	cargo test --package trainyard-e2e --test heavy torch -- --nocapture

stories: ## what users do, on the real kubelet
	cargo test --package trainyard-e2e --test stories -- --nocapture --test-threads=6
	cargo test --package trainyard-e2e --test cluster --test tutorial --test disturbances -- --nocapture --test-threads=1
