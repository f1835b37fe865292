#!/bin/sh
# Checks the chart and deploy/kustomize without a cluster: what they render, what they refuse, what they allow.
#
# Needs helm (or $HELM), kubectl (or $KUBECTL) and python3. No network.
set -eu
cd "$(dirname "$0")/.."
helm=${HELM:-helm}
kubectl=${KUBECTL:-kubectl}
chart=charts/trainyard
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

case_of() { # case_of NAME COMMAND...: the command must succeed
    title=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        echo "ok      $title"
    else
        failures=$((failures + 1))
        echo "FAILED  $title"
        sed 's/^/        /' "$work/out"
    fi
}

# A recent Kubernetes, whatever helm takes for the default.
render() { "$helm" template trainyard "$chart" --namespace trainyard-system --kube-version 1.36.0 "$@"; }
# YAML to JSON: an annotation that is not there is removed, without a server.
to_json() { KUBECONFIG=/dev/null "$kubectl" annotate --local -f - example.com/none- -o json; }
build() { "$kubectl" kustomize "$1"; }

contains() { grep -qF -e "$1" "$2" || { echo "not in the output: $1" && cat "$2" && return 1; }; }
lacks() { ! grep -nE -e "$1" "$2"; }

refused() { # refused TEXT HELM-OPTIONS...: the values are refused with this text
    text=$1
    shift
    if render "$@" >"$work/refused" 2>&1; then
        echo "accepted: $*"
        return 1
    fi
    contains "$text" "$work/refused"
}

rights() { # rights NAMESPACES HELM-OPTIONS...
    text=$1
    shift
    render --set crds.install=false "$@" | to_json >"$work/json" && python3 charts/check.py rights <"$work/json" >"$work/rights" && contains "$text" "$work/rights"
}

gang_rights() {
    render --set crds.install=false --set gangScheduler.kind=Auto | to_json >"$work/json" && python3 charts/check.py rights gang <"$work/json"
}

pods() { # pods HELM-OPTIONS... -- LINES...
    set -- "$@" ''
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    # shellcheck disable=SC2086 # options are words
    render --set crds.install=false $options | to_json >"$work/json" && python3 charts/check.py pods <"$work/json" >"$work/pods" || return
    while [ "$1" ]; do
        contains "$1" "$work/pods" || return
        shift
    done
}

network() { # network TEXT HELM-OPTIONS...
    text=$1
    shift
    render --set crds.install=false "$@" | to_json >"$work/json" && python3 charts/check.py network <"$work/json" >"$work/network" && contains "$text" "$work/network"
}

kinds() { # kinds yes|no KIND HELM-OPTIONS...
    expected=$1
    kind=$2
    shift 2
    answer=no
    render "$@" >"$work/kinds" || return
    if grep -q "^kind: $kind\$" "$work/kinds"; then answer=yes; fi
    [ $answer = "$expected" ]
}

same() { # same DIRECTORY HELM-OPTIONS...: kustomize gives what Helm gives
    build "deploy/kustomize/$1" | to_json >"$work/kustomize" || return
    shift
    render "$@" | to_json >"$work/helm" && python3 charts/check.py same "$work/kustomize" <"$work/helm"
}

crd_text() { # Helm leaves the text of the CustomResourceDefinitions as it is, but for the one annotation
    render --show-only templates/crds.yaml >"$work/crds"
    for file in crds/yaml/*.yaml; do
        awk '{ print } /^metadata:$/ { print "  annotations:\n    helm.sh/resource-policy: keep" }' "$file" >"$work/expected"
        python3 -c 'import sys; a, b = (open(p).read() for p in sys.argv[1:]); sys.exit(a.strip() not in b)' "$work/expected" "$work/crds" || return
    done
}

crd_braces() { # nor would Helm's own syntax in them be interpreted
    rm -rf "$work/chart"
    cp -r "$chart" "$work/chart"
    printf 'a: 1\nmetadata:\n  b: "{{ .Values.replicas }} {{ nothing }}"\n' >"$work/chart/files/crds/braces.yaml"
    "$helm" template trainyard "$work/chart" --kube-version 1.36.0 --show-only templates/crds.yaml >"$work/crds" && contains '{{ .Values.replicas }} {{ nothing }}' "$work/crds"
}

crds_listed() { # crds/yaml/Kustomization lists every file
    for file in crds/yaml/*.yaml; do contains "- ${file##*/}" crds/yaml/Kustomization || return; done
}

references() { # the component of deploy/kustomize/config carries a generated name into a Pipeline and a run
    directory=$(mktemp -d "$PWD/deploy/kustomize/.test.XXXXXX")
    mkdir "$directory/component" "$directory/copy"
    for user in component copy; do
        cat >"$directory/$user/objects.yaml" <<'END'
apiVersion: trainyard.dev/v1alpha1
kind: Pipeline
metadata: {name: p}
spec:
  store: {uri: "s3://bucket/prefix", credentials: {secretName: store}}
  code: {configMapName: code}
  defaults: {container: {image: "python:3"}}
  stages:
  - {name: first, container: {command: [a], env: [{name: A, valueFrom: {configMapKeyRef: {name: code, key: a}}}]}}
  - {name: second, container: {image: "python:3", command: [b]}, pod: {serviceAccountName: trainer, volumes: [{name: v, mountPath: /v, secret: {secretName: store}}]}}
  finally:
  - {name: last, container: {command: [c]}, pod: {volumes: [{name: v, mountPath: /v, configMap: {name: code}}]}}
---
apiVersion: trainyard.dev/v1alpha1
kind: PipelineRun
metadata: {name: r}
spec: {pipelineRef: {name: p}, serviceAccountName: trainer}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: trainer}
END
        cat >"$directory/$user/kustomization.yaml" <<'END'
namePrefix: my-
resources: [objects.yaml]
images: [{name: python, newTag: "3.13"}]
configMapGenerator: [{name: code, literals: [a=1]}]
secretGenerator: [{name: store, literals: [b=2]}]
END
    done
    echo 'components: [../../config]' >>"$directory/component/kustomization.yaml"
    cp deploy/kustomize/config/trainyard.yaml "$directory/copy/"
    echo 'configurations: [trainyard.yaml]' >>"$directory/copy/kustomization.yaml"
    result=0
    for user in component copy; do
        build "$directory/$user" >"$work/$user" || result=1
        for line in 'configMapName: my-code-[a-z0-9]{10}$' 'secretName: my-store-[a-z0-9]{10}$' 'name: my-code-[a-z0-9]{10}$' \
            'serviceAccountName: my-trainer$' 'pipelineRef:'; do
            grep -qE "$line" "$work/$user" || { echo "$user lacks $line" && cat "$work/$user" && result=1; }
        done
        lacks '(configMapName|secretName): *(code|store)$|serviceAccountName: trainer$|^ *name: (code|p)$' "$work/$user" || result=1
    done
    [ "$(grep -c 'image: python:3.13' "$work/copy")" = 2 ] || { echo 'images are not replaced' && cat "$work/copy" && result=1; }
    rm -r "$directory"
    return $result
}

package() { # a package has all that a release needs
    "$helm" package "$chart" --destination "$work" && "$helm" template trainyard "$work"/trainyard-*.tgz --kube-version 1.36.0 >"$work/packaged" &&
        contains 'name: pipelineruns.trainyard.dev' "$work/packaged"
}

subchart() { # as a part of another chart, Helm adds `global`
    mkdir -p "$work/parent/charts"
    printf 'apiVersion: v2\nname: parent\nversion: 1.0.0\n' >"$work/parent/Chart.yaml"
    cp -r "$chart" "$work/parent/charts/"
    "$helm" template trainyard "$work/parent" --kube-version 1.36.0 --set global.x=1 --set trainyard.replicas=2
}

notes() { # notes TEXT HELM-OPTIONS...: helm prints them only with a cluster, so they are rendered as a part of a manifest
    text=$1
    shift
    rm -rf "$work/chart"
    cp -r "$chart" "$work/chart"
    {
        printf '{{- define "notes" }}'
        cat "$chart/templates/NOTES.txt"
        printf '{{- end }}\nnotes: {{ include "notes" . | quote }}\n'
    } >"$work/chart/templates/notes.yaml"
    "$helm" template trainyard "$work/chart" --namespace trainyard-system --kube-version 1.36.0 --show-only templates/notes.yaml "$@" >"$work/notes" &&
        contains "$text" "$work/notes"
}

quiet() { # nothing to remark in what is rendered
    render "$@" >"$work/rendered" && lacks '<no value>|%!|nil|^ +$' "$work/rendered"
}

case_of 'generated files are fresh' charts/generate.sh --check
case_of 'helm lint' "$helm" lint --strict "$chart"
for file in "$chart"/ci/*-values.yaml; do
    name=${file##*/}
    case_of "helm lint with $name" "$helm" lint --strict "$chart" --values "$file"
    case_of "helm template with $name" quiet --values "$file"
done
case_of 'CRDs pass through Helm as they are' crd_text
case_of 'CRDs with braces, too' crd_braces
case_of 'a package is complete' package
case_of 'part of another chart' subchart

case_of 'rights in all namespaces' rights 'all namespaces'
case_of 'rights in two namespaces' rights 'team-a team-b' --values "$chart/ci/namespaces-values.yaml"
case_of 'rights without roles for people' rights 'all namespaces' --values "$chart/ci/minimal-values.yaml"
case_of 'rights with a scheduler that places Pods together' gang_rights

case_of 'one replica' pods -- 'image=ghcr.io/trainyard/operator:0.1.0' 'replicas=1 strategy=Recreate' TRAINYARD_LEADER_ELECTION=false \
    TRAINYARD_RUNNER_IMAGE=ghcr.io/trainyard/step-runner:0.1.0 TRAINYARD_RUN_AS_USER=65532 'TRAINYARD_REPORT_URL=http://trainyard-report.$(POD_NAMESPACE).svc:8090'
case_of 'two replicas' pods --values $chart/ci/ha-values.yaml -- 'replicas=2 strategy=RollingUpdate' TRAINYARD_LEADER_ELECTION=true
case_of 'values reach the environment' pods --values $chart/ci/namespaces-values.yaml -- \
    'image=registry.example.com:5000/mirror/trainyard-operator@sha256:0123' TRAINYARD_RUNNER_IMAGE=registry.example.com:5000/mirror/step-runner:0.1.0-mirror \
    TRAINYARD_RUNNER_IMAGE_PULL_POLICY=Always TRAINYARD_NAMESPACES=team-a,team-b TRAINYARD_RUN_AS_USER=none TRAINYARD_DEFAULT_TIMEOUT=1h30m \
    'TRAINYARD_DEFAULT_RESOURCES={"limits": {"memory": "1Gi", "nvidia.com/gpu": 1}, "requests": {"cpu": "500m", "memory": "1Gi"}}' \
    'TRAINYARD_DEFAULT_STORE={"credentials": {"secretName": "store"}, "s3": {"endpoint": "https://store.example.com", "region": "eu-central-1", "virtualHostedStyle": false}, "uri": "s3://models/it'"'"'s & \"so\" on"}'
case_of 'a scheduler that places Pods together' pods --set gangScheduler.kind=Volcano --set gangScheduler.name=batch -- \
    TRAINYARD_GANG_SCHEDULER=Volcano TRAINYARD_GANG_SCHEDULER_NAME=batch
case_of 'a claim as store' pods --values $chart/ci/minimal-values.yaml -- 'TRAINYARD_DEFAULT_STORE={"volume": {"claimName": "artifacts", "subPath": "trainyard"}}'

case_of 'network by default' network 'to "everywhere" [443, 6443, 8443, 16443]'
case_of 'network to one API server' network 'to [{"ipBlock": {"cidr": "10.0.0.1/32"}}, {"ipBlock": {"cidr": "fd00::1/128"}}] [443]' --values $chart/ci/ha-values.yaml
case_of 'network: metrics for Prometheus only' network 'metrics from [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]' \
    --values $chart/ci/ha-values.yaml
for kind in ServiceMonitor PodDisruptionBudget Secret ConfigMap; do case_of "by default no $kind" kinds no $kind; done
for kind in ServiceMonitor PodDisruptionBudget; do case_of "asked for: $kind" kinds yes $kind --values $chart/ci/ha-values.yaml; done
for kind in CustomResourceDefinition ValidatingAdmissionPolicy NetworkPolicy; do
    case_of "by default $kind" kinds yes $kind
    case_of "turned off: $kind" kinds no $kind --values $chart/ci/minimal-values.yaml
done

case_of 'refused: unknown key' refused 'replicaCount' --set replicaCount=2
case_of 'refused: unknown key deeper' refused 'secret' --set defaultStore.uri=s3://b/p --set defaultStore.credentials.secretName=s --set defaultStore.credentials.secret=x
case_of 'refused: extra environment' refused 'extraEnv' --set extraEnv.A=b
case_of 'refused: store by bucket and claim' refused 'defaultStore' --set defaultStore.uri=s3://b/p --set defaultStore.volume.claimName=c
case_of 'refused: credentials without bucket' refused 'defaultStore' --set defaultStore.credentials.secretName=c
case_of 'refused: wrong scheme' refused 'defaultStore' --set defaultStore.uri=https://bucket
case_of 'refused: bad duration' refused 'podTTL' --set podTTL=1hour
case_of 'refused: unknown scheduler' refused 'gangScheduler' --set gangScheduler.kind=Slurm
case_of 'refused: root' refused 'runAsUser' --set defaults.runAsUser=0
case_of 'refused: bad namespace' refused 'watchNamespaces' --set 'watchNamespaces={Team_A}'
case_of 'refused: a token for the API' refused 'tokenAudiences' --set 'admissionPolicies.tokenAudiences={https://kubernetes.default.svc}'
case_of 'refused: Deny and Warn' refused 'validationActions' --set 'admissionPolicies.validationActions={Deny,Warn}'
case_of 'refused: old Kubernetes' refused 'incompatible' --kube-version 1.32.0

case_of 'notes: no store' notes 'NO DEFAULT STORE'
case_of 'notes: no policies' notes 'NO ADMISSION POLICIES' --set admissionPolicies.enabled=false

for directory in base overlays/dev overlays/ha; do
    case_of "kustomize builds $directory" build "deploy/kustomize/$directory"
done
case_of 'kustomize takes all CRDs' crds_listed
case_of 'base is the chart' same base
case_of 'ha is the chart with two replicas' same overlays/ha --set replicas=2
case_of 'dev is the chart with local images' same overlays/dev --set image.operator.repository=localhost/trainyard/trainyard-operator \
    --set image.runner.repository=localhost/trainyard/step-runner --set log.format=text --set log.level=debug
case_of 'references in Pipelines' references

[ $failures = 0 ] || { echo "$failures failed" && exit 1; }
