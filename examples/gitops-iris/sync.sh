#!/usr/bin/env bash
# Applies what a branch says, and deletes what it does not say any more: the thinnest sync there is, for machines without Flux or
# Argo CD. Those do this properly: they tell health, wait, tell people, and need nobody's shell. If you have one of them, use it.
#
#   sync.sh [--once] --namespace NAMESPACE CLONE OVERLAY
#
# CLONE is a Git clone that belongs to this script (it is reset to its upstream branch), OVERLAY the folder in it that is applied. Without
# --once it goes on every EVERY seconds (60). KUBECTL says which kubectl, of version 1.27 or newer.
#
# What is to be deleted is known by an ApplySet, which is alpha in kubectl: its parent is the ConfigMap `sync-...` in the namespace. Nothing
# is deleted when a run is active, which is asked just before: it needs the ConfigMap with the code that it began with. A ConfigMap that
# came and went meanwhile may be left behind.
set -euo pipefail

die() { printf 'sync: %s\n' "$1" >&2; exit 2; }

once='' namespace='' kubectl=${KUBECTL:-kubectl}
while [[ ${1-} == --* ]]; do
    case $1 in
    --once) once=yes ;;
    --namespace) namespace=${2:?'sync: --namespace needs a name'}; shift ;;
    *) die "unknown option $1" ;;
    esac
    shift
done
[[ -n $namespace && $# == 2 ]] || die 'usage: sync.sh [--once] --namespace NAMESPACE CLONE OVERLAY'
clone=$1 overlay=$2

# Of a run that has not ended there is nothing between the brackets.
a_run_is_active() {
    local ends
    ends=$("$kubectl" --namespace "$namespace" get pipelineruns -o jsonpath='{range .items[*]}[{.status.completionTime}]{end}') || return 2
    [[ $ends == *'[]'* ]]
}

sync() {
    local prune=(--prune --applyset="configmaps/sync-${overlay##*/}") active=0
    git -C "$clone" fetch --quiet && git -C "$clone" reset --quiet --hard '@{upstream}' || return
    a_run_is_active || active=$?
    case $active in
    0) prune=() ;; # next time
    1) ;;
    *) return 1 ;;
    esac
    KUBECTL_APPLYSET=true "$kubectl" --namespace "$namespace" apply --server-side --force-conflicts "${prune[@]}" -k "$clone/$overlay"
}

if [[ -n $once ]]; then
    sync
    exit
fi
while true; do
    sync || printf 'sync: that failed, and is tried again\n' >&2
    sleep "${EVERY:-60}"
done
