#!/bin/sh
# Checks the chart on a real API server: it installs, upgrades and goes; the operator has its rights and no other; the admission policies
# accept and refuse. Nothing runs, so it needs no node: `trainyard-e2e cluster up --control-plane --with-controller-manager` is enough.
#
# Needs KUBECONFIG for a cluster's administrator, helm (or $HELM), kubectl (or $KUBECTL) and python3. Installs the release
# trainyard-chart-test and removes it, and the CustomResourceDefinitions too unless they were there before.
set -eu
cd "$(dirname "$0")/.."
: "${KUBECONFIG:?says which cluster}"
helm=${HELM:-helm}
kubectl=${KUBECTL:-kubectl}
chart=charts/trainyard
release=trainyard-chart-test
system=trainyard-chart-test-system
a=trainyard-chart-test-a
b=trainyard-chart-test-b
operator=system:serviceaccount:$system:$release
work=$(mktemp -d)
failures=0
crds=true
if "$kubectl" get crd pipelines.trainyard.dev >/dev/null 2>&1; then crds=false; fi

clean() {
    "$helm" uninstall "$release" --namespace "$system" --ignore-not-found >/dev/null 2>&1 || true
    [ $crds = false ] || "$kubectl" delete crd pipelines.trainyard.dev pipelineruns.trainyard.dev trainingjobs.trainyard.dev --ignore-not-found >/dev/null
    "$kubectl" delete namespace "$system" "$a" "$b" --ignore-not-found --timeout=60s >/dev/null
    rm -rf "$work"
}
trap clean EXIT

case_of() { # case_of TITLE COMMAND...: the command must succeed
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

contains() { grep -qF -e "$1" "$2" || { echo "not in the output: $1" && cat "$2" && return 1; }; }

until_true() { # until_true COMMAND...: within 30 s
    for _ in $(seq 60); do
        if "$@" >"$work/until" 2>&1; then return 0; fi
        sleep 0.5
    done
    cat "$work/until"
    return 1
}

refuses() { # refuses TEXT COMMAND...: the server refuses with this text
    text=$1
    shift
    if "$@" >"$work/refused" 2>&1; then
        echo "accepted: $*"
        return 1
    fi
    contains "$text" "$work/refused"
}

install() { "$helm" upgrade --install "$release" "$chart" --namespace "$system" --set crds.install=$crds "$@"; }

can() { # can yes|no WHO VERB WHAT...
    expected=$1
    who=$2
    shift 2
    answer=$("$kubectl" auth can-i "$@" --as "$who" 2>/dev/null || true)
    [ "$answer" = "$expected" ] || { echo "$who: $*: $answer" && return 1; }
}

all() { # all yes|no WHO NAMESPACE: each line of the input is VERB WHAT
    result=0
    set -f # a line may be * *
    while read -r line; do
        # shellcheck disable=SC2086 # lines are words
        can "$1" "$2" $line --namespace "$3" || result=1
    done
    set +f
    return $result
}

# JSON merge patch of an object with what is given.
merged() { # merged OBJECT PATCH
    python3 -c '
import json, sys
def merge(to, patch):
    if not isinstance(patch, dict):
        return patch
    to = dict(to) if isinstance(to, dict) else {}
    for key, value in patch.items():
        to.pop(key, None) if value is None else to.update({key: merge(to.get(key), value)})
    return to
print(json.dumps(merge(*map(json.loads, sys.argv[1:]))))' "$1" "$2"
}
create() { # create OBJECT [OPTIONS...]
    object=$1
    shift
    printf '%s' "$object" | "$kubectl" create --filename - "$@"
}
creates() { create "$2" --as "$1" --dry-run=server; } # creates USER OBJECT: would be accepted

run='{"apiVersion":"trainyard.dev/v1alpha1","kind":"PipelineRun","metadata":{"name":"r","namespace":"'$a'"},"spec":{"pipelineRef":{"name":"p"}}}'
job='{"apiVersion":"trainyard.dev/v1alpha1","kind":"TrainingJob","metadata":{"name":"j","namespace":"'$a'"},
    "spec":{"framework":"None","params":{"deep":{"a":[1,{"b":2}]}},"roles":[{"name":"worker","replicas":2,"container":{"image":"i:1","command":["c"]}}]}}'
service='{"apiVersion":"v1","kind":"Service","metadata":{"name":"j","namespace":"'$a'","ownerReferences":[
        {"apiVersion":"trainyard.dev/v1alpha1","kind":"TrainingJob","name":"j","uid":"00000000-0000-0000-0000-000000000000","controller":true}]},
    "spec":{"clusterIP":"None","publishNotReadyAddresses":true,"selector":{"trainyard.dev/job-uid":"0"}}}'
pipeline='{"apiVersion":"trainyard.dev/v1alpha1","kind":"Pipeline","metadata":{"name":"p","namespace":"'$a'"},
    "spec":{"stages":[{"name":"s","container":{"image":"i:1","command":["c"]}}]}}'
pod='{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"'$a'","ownerReferences":[
        {"apiVersion":"trainyard.dev/v1alpha1","kind":"PipelineRun","name":"r","uid":"00000000-0000-0000-0000-000000000000","controller":true}]},
    "spec":{"automountServiceAccountToken":false,
        "containers":[{"name":"stage","image":"i:1","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}],
        "volumes":[{"name":"work","emptyDir":{}}]}}'
stage() { # stage NAME ACCOUNT
    printf '{"name":"%s","container":{"image":"i:1","command":["c"]},"pod":{"serviceAccountName":"%s"}}' "$1" "$2"
}
training() { # training NAME ACCOUNT: a stage that trains, the Pods of one of its roles under that account
    printf '{"name":"%s","trainingJob":{"framework":"None","roles":[{"name":"chief","replicas":1,"container":{"image":"i:1","command":["c"]}},
        {"name":"worker","replicas":2,"container":{"image":"i:1","command":["c"]},"pod":{"serviceAccountName":"%s"}}]}}' "$1" "$2"
}
stages() { # stages COUNT ACCOUNTS: as many stages, with as many accounts in turns
    for i in $(seq "$1"); do
        [ "$i" = 1 ] || printf ,
        stage "s$i" "account-$((i % $2))"
    done
}
container() { # container FIELDS: the Pod with a container that has these fields, too
    merged "$pod" '{"spec":{"containers":['"$(merged '{"name":"stage","image":"i:1","securityContext":{"allowPrivilegeEscalation":false}}' "$1")"']}}'
}
volume() { merged "$pod" '{"spec":{"volumes":[{"name":"v",'"$1"'}]}}'; }
token() { volume '"projected":{"sources":[{"serviceAccountToken":{"path":"t"'"$1"'}}]}'; }
pod_refused() { # pod_refused TITLE TEXT POD
    case_of "pods: refused: $1" refuses "$2" creates "$operator" "$3"
}

# ---------------------------------------------------------------------------------------------------------------- installation

for namespace in "$system" "$a" "$b"; do "$kubectl" create namespace "$namespace" >/dev/null; done
"$kubectl" label namespace "$system" pod-security.kubernetes.io/enforce=restricted >/dev/null
case_of 'helm install' install
case_of 'CRDs are established' "$kubectl" wait --for=condition=Established --timeout=30s crd/pipelines.trainyard.dev crd/pipelineruns.trainyard.dev crd/trainingjobs.trainyard.dev
typed() {
    for policy in "$release-run-authorization" "$release-operator-jobs" "$release-operator-runs" "$release-operator-pods" "$release-operator-services"; do
        "$kubectl" get validatingadmissionpolicy "$policy" -o 'jsonpath={.status.observedGeneration}{.status.typeChecking.expressionWarnings}' >"$work/typed"
        [ "$(cat "$work/typed")" = 1 ] || { cat "$work/typed" && return 1; }
    done
}
case_of 'the policies pass the type check without a warning' until_true typed
deployed() { [ "$("$kubectl" --namespace "$system" get replicasets -o 'jsonpath={.items[*].status.replicas}')" = 1 ]; }
case_of 'restricted Pod Security admits the operator' until_true deployed

for user in alice carol; do
    "$kubectl" --namespace "$a" create rolebinding "$user" --clusterrole edit --user "$user" >/dev/null
done
"$kubectl" --namespace "$a" create rolebinding dave --clusterrole admin --user dave >/dev/null
"$kubectl" --namespace "$a" create role writer --verb create --resource pipelines.trainyard.dev,pipelineruns.trainyard.dev,trainingjobs.trainyard.dev >/dev/null
"$kubectl" --namespace "$a" create rolebinding bob --role writer --user bob >/dev/null
"$kubectl" --namespace "$a" create rolebinding eve --clusterrole view --user eve >/dev/null
"$kubectl" --namespace "$a" create serviceaccount trainer >/dev/null
use='{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"use-trainer","namespace":"'$a'"},
    "rules":[{"apiGroups":[""],"resources":["serviceaccounts"],"resourceNames":["trainer"],"verbs":["use"]}]}'
create "$use" >/dev/null
"$kubectl" --namespace "$a" create rolebinding use-trainer --role use-trainer --user carol >/dev/null

# ---------------------------------------------------------------------------------------------------------------------- rights

operator_may() {
    all yes "$operator" "$1" <<'END'
list pipelines.trainyard.dev
watch pipelineruns.trainyard.dev
create pipelineruns.trainyard.dev
patch pipelineruns.trainyard.dev
delete pipelineruns.trainyard.dev
watch trainingjobs.trainyard.dev
create trainingjobs.trainyard.dev
patch trainingjobs.trainyard.dev
delete trainingjobs.trainyard.dev
patch trainingjobs.trainyard.dev --subresource status
patch pipelines.trainyard.dev --subresource status
patch pipelineruns.trainyard.dev --subresource status
watch pods
create pods
delete pods
deletecollection pods
get services
create services
create controllerrevisions.apps
patch controllerrevisions.apps
create events.events.k8s.io
END
}
operator_may_not() {
    all no "$operator" "$1" <<'END'
get secrets
list secrets
watch secrets
get configmaps
create configmaps
create serviceaccounts --subresource token
use serviceaccounts
create pods --subresource exec
create pods --subresource attach
create pods --subresource portforward
create pods --subresource eviction
get pods --subresource log
update pods --subresource ephemeralcontainers
update pods
patch pods
update pipelineruns.trainyard.dev --subresource status
create pipelines.trainyard.dev
update pipelines.trainyard.dev
delete pipelines.trainyard.dev
list controllerrevisions.apps
delete controllerrevisions.apps
create deployments.apps
create jobs.batch
list services
patch services
update services
delete services
create endpoints
update trainingjobs.trainyard.dev
create roles.rbac.authorization.k8s.io
bind clusterroles.rbac.authorization.k8s.io
escalate clusterroles.rbac.authorization.k8s.io
impersonate users
impersonate serviceaccounts
get nodes
list nodes
list namespaces
get customresourcedefinitions.apiextensions.k8s.io
patch customresourcedefinitions.apiextensions.k8s.io/pipelines.trainyard.dev
get customresourcedefinitions.apiextensions.k8s.io/others.example.com
delete validatingadmissionpolicies.admissionregistration.k8s.io
* *
END
}
none_of_it() {
    all no "$operator" "$1" <<'END'
list pipelines.trainyard.dev
list pipelineruns.trainyard.dev
watch pods
create pods
create events.events.k8s.io
get controllerrevisions.apps
END
}
rights_are() { # rights_are NAMESPACE: all that the operator may there, and nothing else
    "$kubectl" auth can-i --list --no-headers --as "$operator" --namespace "$1" |
        sed -e '/^ *\[/d' -e 's/  */ /g' -e 's/ $//' -e "s/$release/RELEASE/g" | LC_ALL=C sort >"$work/rights"
    # A change of this file is a change of what the operator can do to a cluster.
    diff -u charts/rights.txt "$work/rights"
}
case_of 'rights: all of them are those of charts/rights.txt' rights_are "$a"
case_of 'rights: what the operator may' operator_may "$a"
case_of 'rights: what the operator may not' operator_may_not "$a"
case_of 'rights: nor in its own namespace' operator_may_not "$system"
case_of 'rights: a lease at home' can yes "$operator" create leases.coordination.k8s.io --namespace "$system"
case_of 'rights: its own lease' can yes "$operator" update "leases.coordination.k8s.io/$release" --namespace "$system"
case_of 'rights: no other lease' can no "$operator" update leases.coordination.k8s.io/other --namespace "$system"
case_of 'rights: no leases elsewhere' can no "$operator" create leases.coordination.k8s.io --namespace "$a"
case_of 'rights: its own CRDs' can yes "$operator" get customresourcedefinitions.apiextensions.k8s.io/pipelineruns.trainyard.dev
case_of 'rights: edit writes Pipelines' until_true can yes alice create pipelines.trainyard.dev --namespace "$a"
case_of 'rights: edit does not use accounts' can no alice use serviceaccounts --namespace "$a"
case_of 'rights: admin uses accounts' until_true can yes dave use serviceaccounts --namespace "$a"
case_of 'rights: admin lets others use accounts' creates dave "$(merged "$use" '{"metadata":{"name":"other"}}')"
case_of 'rights: admin approves' can yes dave approve pipelineruns.trainyard.dev --namespace "$a"
case_of 'rights: edit does not approve' can no alice approve pipelineruns.trainyard.dev --namespace "$a"
case_of 'rights: edit does not' refuses forbidden creates alice "$(merged "$use" '{"metadata":{"name":"other"}}')"
case_of 'rights: view reads' until_true can yes eve watch pipelineruns.trainyard.dev --namespace "$a"
case_of 'rights: view does not write' can no eve create pipelineruns.trainyard.dev --namespace "$a"

# ---------------------------------------------------------------------------------------------------------- run-authorization

case_of 'runs: refused: no right to create Pods' until_true refuses 'user bob may not create Pods in namespace '"$a" creates bob "$run"
case_of 'runs: accepted: a right to create Pods' creates alice "$run"
case_of 'runs: accepted: account default' creates alice "$(merged "$run" '{"spec":{"serviceAccountName":"default"}}')"
case_of 'runs: refused: an account' refuses 'user alice may not run stages as ServiceAccount trainer' creates alice \
    "$(merged "$run" '{"spec":{"serviceAccountName":"trainer"}}')"
case_of 'runs: accepted: an account with use' creates carol "$(merged "$run" '{"spec":{"serviceAccountName":"trainer"}}')"
case_of 'runs: refused: another account' refuses 'may not run stages as ServiceAccount builder' creates carol "$(merged "$run" '{"spec":{"serviceAccountName":"builder"}}')"
approved() { merged "$run" '{"spec":{"approvals":{"ship":{"decision":"Approved","by":"'"$1"'"}}}}'; } # approved BY
case_of 'runs: refused: an approval without the right to approve' refuses 'user alice may not decide on approvals of runs in namespace '"$a" creates alice "$(approved alice)"
case_of 'runs: refused: an approval in the name of another' refuses 'by must be the name of whoever decides, which is dave' creates dave "$(approved alice)"
case_of 'runs: accepted: an approval in the own name' creates dave "$(approved dave)"
case_of 'runs: refused: the operator approves nothing' refuses 'may not decide on approvals' creates "$operator" \
    "$(merged "$(approved "$operator")" '{"metadata":{"ownerReferences":[{"apiVersion":"trainyard.dev/v1alpha1","kind":"Pipeline","name":"p","uid":"0","controller":true}]}}')"
inline() { merged "$run" '{"spec":{"pipelineRef":null,"pipeline":{"stages":['"$1"']'"${2-}"'}}}'; }
plain='{"name":"a","container":{"image":"i:1","command":["c"]}}'
case_of 'runs: accepted: inline' creates alice "$(inline "$plain")"
case_of 'runs: refused: account of an inline stage' refuses 'ServiceAccount trainer' creates alice "$(inline "$plain,$(stage b trainer)")"
case_of 'runs: refused: account of an inline finally stage' refuses 'ServiceAccount trainer' creates alice "$(inline "$plain" ',"finally":['"$(stage b trainer)"']')"
case_of 'runs: refused: account of a role of an inline training' refuses 'ServiceAccount trainer' creates alice "$(inline "$plain,$(training b trainer)")"
case_of 'runs: accepted: inline training with use' creates carol "$(inline "$plain,$(training b trainer)")"
case_of 'runs: accepted: inline with use' creates carol "$(inline "$plain,$(stage b trainer)")"
case_of 'pipelines: accepted without a right to create Pods' creates bob "$pipeline"
by_itself=$(merged "$pipeline" '{"spec":{"triggers":[{"name":"git","specChange":{}}]}}')
asked=$(merged "$pipeline" '{"metadata":{"annotations":{"trainyard.dev/rerun-requested-at":"now"}}}')
case_of 'pipelines: refused: with triggers without that right' refuses 'user bob may not create Pods in namespace '"$a" creates bob "$by_itself"
case_of 'pipelines: accepted: with triggers' creates alice "$by_itself"
case_of 'pipelines: refused: a request for a run without that right' refuses 'user bob may not create Pods in namespace '"$a" creates bob "$asked"
case_of 'pipelines: accepted: a request for a run' creates alice "$asked"
guarded=$(merged "$pipeline" '{"spec":{"stages":['"$(stage s trainer)"']}}')
case_of 'pipelines: refused: account of a stage' refuses 'user alice may not run stages as ServiceAccount trainer' creates alice "$guarded"
case_of 'pipelines: refused: account of a role of a training' refuses 'ServiceAccount trainer' creates alice "$(merged "$pipeline" '{"spec":{"stages":['"$(training s trainer)"']}}')"
case_of 'pipelines: accepted: with use' create "$guarded" --as carol
case_of 'pipelines: refused: another command under the account' refuses 'may not run stages as ServiceAccount trainer' \
    "$kubectl" --as alice --namespace "$a" patch pipeline p --type json --patch '[{"op":"replace","path":"/spec/stages/0/container/command","value":["evil"]}]'
case_of 'pipelines: accepted: a label' "$kubectl" --as alice --namespace "$a" label pipeline p x=y
case_of 'pipelines: accepted: without the account' "$kubectl" --as alice --namespace "$a" patch pipeline p --type json --patch '[{"op":"remove","path":"/spec/stages/0/pod"}]'
many() { merged "$pipeline" '{"metadata":{"name":"many"},"spec":{"stages":['"$1"']}}'; }
case_of 'pipelines: accepted: 200 stages, 8 accounts' creates dave "$(many "$(stages 200 8)")"
case_of 'pipelines: refused: 9 accounts' refuses 'at most 8 ServiceAccounts' creates dave "$(many "$(stages 9 9)")"
case_of 'pipelines: refused: the last of 200 stages' refuses 'ServiceAccount account-0' creates carol "$(many "$(stages 199 1 | sed s/account-0/trainer/g),$(stage last account-0)")"
case_of 'runs: accepted: inline, 200 stages, 8 accounts' creates dave "$(inline "$(stages 200 8)")"

kept=$(merged "$run" '{"spec":{"params":{"deep":{"a":[1,{"b":2}]},"one":1}}}')
edit() { "$kubectl" --as alice --namespace "$a" patch pipelinerun r --type json --patch "$1"; }
case_of 'runs: created with params' create "$kept" --as alice
case_of 'runs: refused: params change' refuses 'params cannot be changed' edit '[{"op":"replace","path":"/spec/params/one","value":2}]'
case_of 'runs: refused: params change deep inside' refuses 'params cannot be changed' edit '[{"op":"replace","path":"/spec/params/deep/a/1/b","value":3}]'
case_of 'runs: refused: params go' refuses 'params cannot be changed' edit '[{"op":"remove","path":"/spec/params"}]'
case_of 'runs: accepted: suspend' edit '[{"op":"add","path":"/spec/suspend","value":true}]'
case_of 'runs: accepted: ttl' edit '[{"op":"add","path":"/spec/ttl","value":"1h"}]'
case_of 'runs: accepted: state' edit '[{"op":"add","path":"/spec/state","value":"Cancelled"}]'
case_of 'runs: accepted: label by the operator' "$kubectl" --as "$operator" --namespace "$a" label pipelinerun r trainyard.dev/finished=true
case_of 'runs: accepted: status' "$kubectl" --namespace "$a" patch pipelinerun r --subresource status --type merge --patch '{"status":{"phase":"Running"}}'
case_of 'runs: created inline' create "$(merged "$(inline "$plain" ',"params":[{"name":"x","default":1}]')" '{"metadata":{"name":"i"}}')" --as alice
case_of 'runs: refused: a default inside the pipeline changes' refuses 'pipeline cannot be changed' \
    "$kubectl" --as alice --namespace "$a" patch pipelinerun i --type json --patch '[{"op":"replace","path":"/spec/pipeline/params/0/default","value":2}]'

case_of 'jobs: refused: no right to create Pods' refuses 'a TrainingJob runs Pods for the user who creates it, and user bob may not' creates bob "$job"
case_of 'jobs: accepted: a right to create Pods' creates alice "$job"
case_of 'jobs: refused: an account' refuses 'user alice may not run stages as ServiceAccount trainer' creates alice \
    "$(merged "$job" '{"spec":{"serviceAccountName":"trainer"}}')"
role() { printf '{"spec":{"roles":[{"name":"worker","replicas":2,"container":{"image":"i:1","command":["c"]},"pod":{"serviceAccountName":"%s"}}]}}' "$1"; }
case_of 'jobs: refused: account of a role' refuses 'user alice may not run stages as ServiceAccount trainer' creates alice "$(merged "$job" "$(role trainer)")"
case_of 'jobs: accepted: account of a role with use' creates carol "$(merged "$job" "$(role trainer)")"
owned=$(merged "$job" '{"metadata":{"ownerReferences":[
    {"apiVersion":"trainyard.dev/v1alpha1","kind":"PipelineRun","name":"r","uid":"00000000-0000-0000-0000-000000000000","controller":true}]}}')
case_of 'jobs: accepted: of a run, by the operator' creates "$operator" "$owned"
case_of 'jobs: accepted: of a run, with an account, by the operator' creates "$operator" "$(merged "$owned" "$(role trainer)")"
case_of 'jobs: refused: of nobody, by the operator' refuses 'that a PipelineRun owns' creates "$operator" "$job"
case_of 'jobs: created' create "$job" --as alice
edit_job() { "$kubectl" --as alice --namespace "$a" patch trainingjob j --type json --patch "$1"; }
case_of 'jobs: refused: params change deep inside' refuses 'params cannot be changed: create another job' edit_job '[{"op":"replace","path":"/spec/params/deep/a/1/b","value":3}]'
case_of 'jobs: refused: a role changes' refuses 'roles cannot be changed' edit_job '[{"op":"replace","path":"/spec/roles/0/replicas","value":3}]'
case_of 'jobs: accepted: suspend' edit_job '[{"op":"add","path":"/spec/suspend","value":true}]'
case_of 'jobs: accepted: ttl' edit_job '[{"op":"add","path":"/spec/ttl","value":"1h"}]'
case_of 'jobs: accepted: status' "$kubectl" --namespace "$a" patch trainingjob j --subresource status --type merge --patch '{"status":{"phase":"Running"}}'

# ----------------------------------------------------------------------------------------------------------- operator-services

service_refused() { # service_refused TITLE TEXT FIELDS
    case_of "services: refused: $1" refuses "$2" creates "$operator" "$(merged "$service" "$3")"
}
case_of 'services: accepted: one of a job' creates "$operator" "$service"
service_refused 'no owner' 'that a TrainingJob owns' '{"metadata":{"ownerReferences":null}}'
service_refused 'an address' 'only create headless Services' '{"spec":{"clusterIP":null,"ports":[{"port":80}]}}'
service_refused 'a port' 'only create headless Services' '{"spec":{"ports":[{"port":80}]}}'
service_refused 'external addresses' 'only create headless Services' '{"spec":{"externalIPs":["10.1.2.3"]}}'
service_refused 'a name outside' 'only create headless Services' '{"spec":{"clusterIP":null,"selector":null,"type":"ExternalName","externalName":"example.com"}}'
service_refused 'other Pods' 'may only select the Pods of a job' '{"spec":{"selector":{"app":"database","trainyard.dev/job-uid":null}}}'
service_refused 'no selector' 'may only select the Pods of a job' '{"spec":{"selector":null}}'
case_of 'services: accepted: any, but by another user' create "$(merged "$service" '{"spec":{"selector":{"app":"x"}}}')" --dry-run=server

# --------------------------------------------------------------------------------------------------------------- operator-runs

triggered=$(merged "$run" '{"metadata":{"name":"t","ownerReferences":[
    {"apiVersion":"trainyard.dev/v1alpha1","kind":"Pipeline","name":"p","uid":"00000000-0000-0000-0000-000000000000","controller":true}]}}')
run_refused() { # run_refused TITLE TEXT PATCH
    case_of "runs: refused: $1" refuses "$2" creates "$operator" "$(merged "$triggered" "$3")"
}
case_of 'runs: accepted: one of a Pipeline' creates "$operator" "$triggered"
orphan='{"metadata":{"ownerReferences":null,"labels":{"trainyard.dev/pipeline-uid":"u"}}}'
case_of 'runs: accepted: one that outlives its Pipeline' creates "$operator" "$(merged "$triggered" "$orphan")"
run_refused 'one that outlives another owner' 'of the Pipeline that owns them' \
    "$(merged "$orphan" '{"metadata":{"ownerReferences":[{"apiVersion":"batch/v1","kind":"Job","name":"r","uid":"0"}]}}')"
run_refused 'one that outlives no Pipeline' 'of the Pipeline that owns them' \
    '{"metadata":{"ownerReferences":null,"labels":{"trainyard.dev/pipeline-uid":"u"}},
      "spec":{"pipelineRef":null,"pipeline":{"stages":[{"name":"s","container":{"image":"i:1","command":["c"]}}]}}}'
run_refused 'no owner' 'of the Pipeline that owns them' '{"metadata":{"ownerReferences":null}}'
run_refused 'of another Pipeline' 'of the Pipeline that owns them' '{"spec":{"pipelineRef":{"name":"q"}}}'
run_refused 'another pipeline' 'of the Pipeline that owns them' '{"spec":{"pipelineRef":null,"pipeline":{"stages":[{"name":"s","container":{"image":"i:1","command":["c"]}}]}}}'
run_refused 'another account' 'ServiceAccount' '{"spec":{"serviceAccountName":"trainer"}}'
run_refused 'a rerun' 'as it is' '{"spec":{"rerun":{"of":"r"}}}'

# --------------------------------------------------------------------------------------------------------------- operator-pods

until_true "$kubectl" --namespace "$a" get serviceaccount default >/dev/null
case_of 'pods: accepted: a Pod of a run' creates "$operator" "$pod"
case_of 'pods: accepted: a Pod of a job' creates "$operator" "$(merged "$pod" '{"metadata":{"ownerReferences":[
    {"apiVersion":"trainyard.dev/v1alpha1","kind":"TrainingJob","name":"j","uid":"00000000-0000-0000-0000-000000000000","controller":true}]}}')"
for kind in '"persistentVolumeClaim":{"claimName":"c"}' '"configMap":{"name":"c"}' '"secret":{"secretName":"s"}' '"csi":{"driver":"d.example.com"}' \
    '"image":{"reference":"i:1"}' '"ephemeral":{"volumeClaimTemplate":{"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}}'; do
    case_of "pods: accepted: volume ${kind%%:*}" creates "$operator" "$(volume "$kind")"
done
case_of 'pods: accepted: root in the container' creates "$operator" "$(container '{"securityContext":{"runAsUser":0}}')"
case_of 'pods: accepted: a cloud token of a webhook' creates "$operator" "$(token ',"audience":"sts.amazonaws.com"')"
case_of 'pods: accepted: privileged, but by another user' create "$(container '{"securityContext":{"privileged":true,"allowPrivilegeEscalation":null}}')" --dry-run=server
pod_refused 'no owner' 'a PipelineRun, a TrainingJob or a Pipeline owns' "$(merged "$pod" '{"metadata":{"ownerReferences":null}}')"
pod_refused 'owner of another kind' 'a PipelineRun, a TrainingJob or a Pipeline owns' \
    "$(merged "$pod" '{"metadata":{"ownerReferences":[{"apiVersion":"batch/v1","kind":"Job","name":"r","uid":"0","controller":true}]}}')"
pod_refused 'owner that is no controller' 'a PipelineRun, a TrainingJob or a Pipeline owns' \
    "$(merged "$pod" '{"metadata":{"ownerReferences":[{"apiVersion":"trainyard.dev/v1alpha1","kind":"PipelineRun","name":"r","uid":"0"}]}}')"
pod_refused 'namespace of the cluster' 'namespaces of the cluster itself' "$(merged "$pod" '{"metadata":{"namespace":"kube-system"}}')"
pod_refused 'token' 'automountServiceAccountToken must be false' "$(merged "$pod" '{"spec":{"automountServiceAccountToken":true}}')"
pod_refused 'token by default' 'automountServiceAccountToken must be false' "$(merged "$pod" '{"spec":{"automountServiceAccountToken":null}}')"
pod_refused 'projected token' 'no ServiceAccount token' "$(token '')"
pod_refused 'projected token for the API' 'no ServiceAccount token' "$(token ',"audience":"https://kubernetes.default.svc"')"
for field in hostNetwork hostPID hostIPC; do pod_refused $field $field "$(merged "$pod" '{"spec":{"'$field'":true}}')"; done
pod_refused 'host path' 'hostPath' "$(volume '"hostPath":{"path":"/"}')"
pod_refused 'NFS' 'hostPath and the old network volumes' "$(volume '"nfs":{"server":"s","path":"/"}')"
pod_refused 'privileged' 'must not be privileged' "$(container '{"securityContext":{"privileged":true,"allowPrivilegeEscalation":null}}')"
pod_refused 'privilege escalation' 'allowPrivilegeEscalation' "$(container '{"securityContext":{"allowPrivilegeEscalation":true}}')"
pod_refused 'privilege escalation by default' 'allowPrivilegeEscalation' "$(container '{"securityContext":null}')"
pod_refused 'capability' 'add no capability' "$(container '{"securityContext":{"capabilities":{"add":["NET_ADMIN"]}}}')"
pod_refused 'privileged init container' 'must not be privileged' "$(merged "$pod" '{"spec":{"initContainers":[{"name":"x","image":"i:1","securityContext":{"privileged":true}}]}}')"
pod_refused 'host port' 'hostPort' "$(container '{"ports":[{"containerPort":80,"hostPort":80}]}')"
pod_refused 'procMount' 'procMount' "$(merged "$(container '{"securityContext":{"procMount":"Unmasked"}}')" '{"spec":{"hostUsers":false}}')"
pod_refused 'seccomp off' 'seccomp' "$(container '{"securityContext":{"seccompProfile":{"type":"Unconfined"}}}')"
pod_refused 'seccomp off for the Pod' 'seccomp' "$(merged "$pod" '{"spec":{"securityContext":{"seccompProfile":{"type":"Unconfined"}}}}')"
pod_refused 'AppArmor off' 'AppArmor' "$(container '{"securityContext":{"appArmorProfile":{"type":"Unconfined"}}}')"
pod_refused 'sysctls' 'sysctls' "$(merged "$pod" '{"spec":{"securityContext":{"sysctls":[{"name":"net.ipv4.ip_local_port_range","value":"1 2"}]}}}')"

# The garbage collector would take a Pod whose run is not there, so these have an owner that is.
uid=$("$kubectl" --namespace "$a" get pipelinerun r -o 'jsonpath={.metadata.uid}')
owned=$(merged "$pod" '{"metadata":{"labels":{"of":"test"},"ownerReferences":[{"apiVersion":"trainyard.dev/v1alpha1","kind":"PipelineRun","name":"r","uid":"'"$uid"'","controller":true}]}}')
foreign=$(merged "$pod" '{"metadata":{"name":"foreign","labels":{"of":"test"},"ownerReferences":null}}')
case_of 'pods: created by the operator' create "$owned" --as "$operator"
case_of 'pods: created by another' create "$foreign"
case_of 'pods: refused: deletion of a foreign Pod' refuses 'only delete Pods of PipelineRuns' "$kubectl" --as "$operator" --namespace "$a" delete pod foreign --wait=false
case_of 'pods: refused: deletion of all' refuses 'only delete Pods of PipelineRuns' "$kubectl" --as "$operator" delete --raw "/api/v1/namespaces/$a/pods?labelSelector=of%3Dtest"
still() { "$kubectl" --namespace "$a" get pod foreign; }
case_of 'pods: the foreign Pod is still there' still
"$kubectl" --namespace "$a" delete pod foreign --force --grace-period 0 >/dev/null 2>&1 || true
"$kubectl" --namespace "$a" delete pod p --force --grace-period 0 >/dev/null 2>&1 || true
case_of 'pods: created once more' create "$owned" --as "$operator"
case_of 'pods: accepted: deletion of all of a run' "$kubectl" --as "$operator" delete --raw "/api/v1/namespaces/$a/pods?labelSelector=of%3Dtest"

# -------------------------------------------------------------------------------------------------------- upgrade and removal

case_of 'upgrade: two replicas' install --set replicas=2
case_of 'upgrade: a PodDisruptionBudget' "$kubectl" --namespace "$system" get poddisruptionbudget "$release"
case_of 'upgrade: back to one' install
strategy() { [ "$("$kubectl" --namespace "$system" get deployment "$release" -o 'jsonpath={.spec.strategy.type}{.spec.strategy.rollingUpdate}')" = Recreate ]; }
case_of 'upgrade: which never overlaps' strategy
case_of 'upgrade: one namespace' install --set "watchNamespaces={$a}"
case_of 'upgrade: rights there' operator_may "$a"
case_of 'upgrade: no more there' operator_may_not "$a"
case_of 'upgrade: no rights elsewhere' none_of_it "$b"
case_of 'upgrade: nor at home' none_of_it "$system"
case_of 'upgrade: CRDs no longer managed' install --set crds.install=false
case_of 'uninstall' "$helm" uninstall "$release" --namespace "$system"
case_of 'uninstall keeps the runs' "$kubectl" --namespace "$a" get pipelinerun r
case_of 'uninstall lifts the policies' until_true creates bob "$(merged "$run" '{"metadata":{"name":"later"}}')"
case_of 'install again, over CRDs that were kept' install
case_of 'uninstall again' "$helm" uninstall "$release" --namespace "$system"
case_of 'namespaces go without the operator' "$kubectl" delete namespace "$a" "$b" --timeout=60s

if "$kubectl" get namespace trainyard-system >/dev/null 2>&1; then
    echo "skipped kubectl apply -k: the namespace trainyard-system is in use"
else
    case_of 'kubectl apply -k base' "$kubectl" apply -k deploy/kustomize/base
    case_of 'kubectl apply -k base again changes nothing' sh -c '! "$1" apply -k deploy/kustomize/base | grep -v " unchanged$"' - "$kubectl"
    case_of 'kubectl apply -k ha' "$kubectl" apply -k deploy/kustomize/overlays/ha
    if [ $crds = true ]; then
        case_of 'helm takes over what kustomize made' "$helm" install trainyard "$chart" --namespace trainyard-system --take-ownership
        case_of 'and goes' "$helm" uninstall trainyard --namespace trainyard-system
    fi
    "$kubectl" kustomize deploy/kustomize/overlays/ha >"$work/ha"
    [ $crds = true ] || python3 -c '
import sys
print("---\n".join(one for one in sys.stdin.read().split("---\n") if "\nkind: CustomResourceDefinition\n" not in one))' <"$work/ha" >"$work/without"
    [ $crds = true ] || mv "$work/without" "$work/ha"
    case_of 'kubectl delete -k' "$kubectl" delete --ignore-not-found --timeout=60s --filename "$work/ha"
fi

[ $failures = 0 ] || { echo "$failures failed" && exit 1; }
