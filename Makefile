# Thin: every target is one command that a person could type.
E2E := cargo run --quiet --package trainyard-e2e --

.PHONY: cluster cluster-down images

# A real Kubernetes on this machine. The first time, its programs are built: ten minutes.
cluster:
	$(E2E) cluster up

cluster-down:
	$(E2E) cluster down

# Every image of deploy/images, into that cluster or the one of KUBECONFIG.
images:
	$(E2E) image load
