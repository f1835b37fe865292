#!/usr/bin/env bash
# Commits, reverts and new data, and what becomes of the model: each step is checked, and the first that is not as it should be ends this
# with 1. ../../docs/tutorial-gitops.md tells the same by hand.
#
#   PUT_OBJECT=COMMAND demo.sh
#
# PUT_OBJECT  a command that puts a file into the store: it is called with FILE URI, such as flowers.csv s3://iris/raw/flowers.csv
# RAW_URI     where the flowers are (s3://iris/raw/flowers/); with a / at the end
# NAMESPACE   (gitops-iris) there it happens. It exists, has the Secret `store` (docs/how-to/store.md) and no Pipeline `iris`
# KUBECTL     (kubectl)
# LIMIT       seconds that a step may take (600)
set -euo pipefail

KUBECTL=${KUBECTL:-kubectl} NAMESPACE=${NAMESPACE:-gitops-iris} RAW_URI=${RAW_URI:-s3://iris/raw/flowers/} LIMIT=${LIMIT:-600}
: "${PUT_OBJECT:?it says how to put a file into the store: it is called with FILE URI}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export KUBECTL GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=demo GIT_AUTHOR_EMAIL=demo@example.com GIT_COMMITTER_NAME=demo GIT_COMMITTER_EMAIL=demo@example.com
dev=$work/dev file=$work/dev/base/pipeline.yaml

step() { printf '\n== %s\n' "$1"; }
say() { printf '   %s\n' "$1"; }
fail() {
    printf '\nFAILED: %s\n\n' "$1" >&2
    kube get pipelines,pipelineruns >&2 || true
    exit 1
}
kube() { "$KUBECTL" --namespace "$NAMESPACE" "$@"; }
pipeline() { kube get pipeline iris -o jsonpath="$1"; }
runs() { kube get pipelineruns -l trainyard.dev/pipeline=iris -o name | wc -l; }
champion() { pipeline '{.status.models[?(@.name=="iris")].champion}'; }
accuracy() { pipeline "{.status.models[?(@.name==\"iris\")].versions[?(@.version==$1)].metrics.evaluate\\.accuracy}"; }
newest() { pipeline "{.status.revisions[0].$1}"; } # entry of the ledger
seconds() { printf '%d.%01d s' $(($1 / 1000)) $(($1 % 1000 / 100)); }
now() { echo $(($(date +%s%N) / 1000000)); }

# until_is WHAT VALUE COMMAND...: asks until the command prints VALUE; `?*` stands for anything.
until_is() {
    local what=$1 wanted=$2 end=$((SECONDS + LIMIT)) is
    shift 2
    while true; do
        is=$("$@") || is=''
        # shellcheck disable=SC2053
        [[ $is == $wanted ]] && return
        ((SECONDS < end)) || fail "after $LIMIT s $what is '$is' and not '$wanted'"
        sleep 1
    done
}
# same WHAT WANTED IS
same() { [[ $3 == "$2" ]] || fail "$1: $3, and it should be $2"; }

# replace OLD NEW: in the pipeline's file, where OLD must be.
replace() {
    local text
    text=$(<"$file")
    [[ $text == *"$1"* ]] || fail "base/pipeline.yaml has no '$1'"
    printf '%s\n' "${text//"$1"/"$2"}" >"$file"
}
commit() { git -C "$dev" add --all && git -C "$dev" commit --quiet --message "$1"; }
sync() {
    git -C "$dev" push --quiet origin main
    "$here/sync.sh" --once --namespace "$NAMESPACE" "$work/deployed" overlays/staging >"$work/log" 2>&1 || fail "sync: $(<"$work/log")"
    say "synced $(git -C "$dev" log -1 --format='%h %s')"
}
observed() {
    local generation
    generation=$(pipeline '{.metadata.generation}')
    until_is 'the generation of the Pipeline that the operator has seen' "$generation" pipeline '{.status.observedGeneration}'
}
# ended TRIGGER PHASE: waits for the end of the newest run, which must be of that trigger, and end so.
ended() {
    until_is 'the end of the newest run' '?*' newest completed
    same 'the trigger of the newest run' "$1" "$(newest trigger)"
    [[ $(newest phase) == "$2" ]] || fail "run $(newest run) has ended as $(newest phase) and not $2: $(newest message)"
}
put() {
    # A command of several words.
    # shellcheck disable=SC2086
    $PUT_OBJECT "$2" "$RAW_URI$1" || fail "PUT_OBJECT failed for $RAW_URI$1"
}

kube get pipeline iris -o name >"$work/log" 2>&1 && fail "namespace $NAMESPACE has a Pipeline iris: delete it, or take another namespace"
[[ $(<"$work/log") == *NotFound* ]] || fail "$(<"$work/log")"
same 'runs of a Pipeline iris before it is there' 0 "$(runs)"
put flowers-1.csv "$here/data/flowers-1.csv"
git init --quiet --bare --initial-branch=main "$work/origin.git"
git clone --quiet "$work/origin.git" "$dev" 2>"$work/log"
cp -r "$here/base" "$here/overlays" "$dev"
replace s3://iris/raw/flowers/ "$RAW_URI"
replace 'rerunToken: "1"' "rerunToken: \"$(date +%s)\"" # the store knows of earlier demos, and trains none of them again
commit 'nine neighbours'
git -C "$dev" push --quiet --set-upstream origin main
git clone --quiet "$work/origin.git" "$work/deployed"

step '1. The first commit: one run, and its model is champion'
sync
observed
ended git Succeeded
first=$(champion) train=$(kube get pipelinerun "$(newest run)" -o jsonpath='{.status.duration}')
same runs 1 "$(runs)"
say "champion: version $first, accuracy $(accuracy "$first"), after $train"

step '2. A better number: one more run'
replace 'neighbours, type: integer, default: 9' 'neighbours, type: integer, default: 3'
commit 'three neighbours'
sync
observed
ended git Succeeded
second=$(champion)
same runs 2 "$(runs)"
same 'the champion' $((first + 1)) "$second"
say "champion: version $second, accuracy $(accuracy "$second")"

step '3. A comment: no run'
generation=$(pipeline '{.metadata.generation}')
printf '# Three it is.\n' >>"$file"
commit 'a comment'
sync
same 'the generation of the Pipeline' "$generation" "$(pipeline '{.metadata.generation}')"
same runs 2 "$(runs)"
say 'the Pipeline is the same, so there is nothing to do'

step '4. A number that is much worse: the gate stops it'
replace 'neighbours, type: integer, default: 3' 'neighbours, type: integer, default: 75'
commit 'seventy-five neighbours'
sync
observed
ended git Failed
same 'the reason of the newest run' GateFailed "$(newest reason)"
same runs 3 "$(runs)"
same 'the champion' "$second" "$(champion)"
say "$(kube get pipelinerun "$(newest run)" -o jsonpath='{.status.message}')"
say "champion: still version $second"

step '5. git revert: the champion is what the spec says, so nothing is left to do'
git -C "$dev" revert --no-edit HEAD >"$work/log"
sync
observed
until_is 'why the trigger starts nothing' AlreadyRun pipeline '{.status.triggers[?(@.name=="git")].reason}'
same runs 3 "$(runs)"
same 'the champion' "$second" "$(champion)"
say "$(pipeline '{.status.triggers[?(@.name=="git")].message}')"

step '6. git revert of step 2: the first model is back, without a training'
git -C "$dev" revert --no-edit HEAD~3 >"$work/log"
begin=$(now)
sync
applied=$(now)
until_is 'the champion' "$first" champion
back=$(now)
observed
ended git Succeeded
run=$(newest run)
same runs 4 "$(runs)"
same 'the stages of the run' iris "$(kube get pipelinerun "$run" -o jsonpath='{.status.stages[*].name}')"
pods=$(kube get pods -l "trainyard.dev/run=$run" -o jsonpath='{.items[*].metadata.labels.trainyard\.dev/stage}')
[[ $pods == '' || $pods == iris ]] || fail "the run has Pods of other stages: $pods"
events=(get events --field-selector reason=RolledBack,involvedObject.kind=Pipeline,involvedObject.name=iris -o 'jsonpath={.items[*].message}')
until_is 'the Event RolledBack of the Pipeline' "*$run*" kube "${events[@]}"
say "RolledBack: $(kube "${events[@]}")"
say "champion: version $first, $(seconds $((back - applied))) after the sync, which took $(seconds $((applied - begin))); its training took $train"

step '7. New data: one run'
until_is 'the fingerprint of the data' '?*' pipeline '{.status.triggers[?(@.name=="data")].data.fingerprint}'
put "flowers-$(date +%s).csv" "$here/data/flowers-2.csv"
say 'there are more flowers; they are found when the trigger looks next'
until_is 'the number of runs' 5 runs
observed
ended data Succeeded
same runs 5 "$(runs)"
same 'the champion' $((second + 1)) "$(champion)"
say "champion: version $(champion), accuracy $(accuracy "$(champion)")"

printf '\nThe ledger, the runs, the Pipeline:\n\n'
pipeline '{range .status.revisions[*]}{.run}  {.trigger}  {.phase}  {.reason}{"\n"}{end}'
echo
kube get pipelineruns -l trainyard.dev/pipeline=iris --sort-by=.metadata.creationTimestamp
kube get pipeline iris
printf '\nEverything was as it should be.\n'
