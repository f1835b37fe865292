#!/usr/bin/env bash
# Fuzzes every target, or those that are named, for so many seconds each: e2e/fuzz/run.sh SECONDS [TARGET...]
set -euo pipefail
cd "$(dirname "$0")"
seconds=$1
shift
[[ $# -gt 0 ]] || set -- pipeline substitution expression termination manifest commit metrics step

# Flags and dependencies are not those of the other workspace: it has a directory of its own, which lasts where that one lasts.
target_directory=${CARGO_TARGET_DIR:+$CARGO_TARGET_DIR/fuzz}
export CARGO_TARGET_DIR=${target_directory:-$PWD/target}
cargo build --quiet --locked

# What the threads of the operator have: whoever recurses too deep ends here.
ulimit -s 2048

one() {
    local target=$1 found=$CARGO_TARGET_DIR/found/$1 log=$CARGO_TARGET_DIR/$1.log
    mkdir -p "$found"
    # An input may take 5 s and 256 MiB, of which the fuzzer has a part.
    if TRAINYARD_FUZZ=$target "$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/debug/fuzz" \
        -max_total_time="$seconds" -timeout=5 -rss_limit_mb=256 -max_len=8192 -dict=words.dict -print_final_stats=1 \
        -artifact_prefix="$CARGO_TARGET_DIR/$target-" "$found" "corpus/$target" >"$log" 2>&1; then
        awk -v target="$target" '/cov:/ {covered = $4} /number_of_executed_units/ {runs = $2}
            END {printf "fuzz: %-13s %9d inputs, %5d edges, no crash\n", target, runs, covered}' "$log"
    else
        echo "fuzz: $target failed; the input is base64 below, its file is named there: a unit test, a fix, and a file of the corpus" >&2
        tail -n 40 "$log" >&2
        return 1
    fi
}
export -f one
export seconds
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} bash -c 'one {}'
