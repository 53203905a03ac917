#!/bin/sh
# Runs the tests that are proofs of tests/conformance, notes their outcomes and
# writes the tables.
#
# usage: tests/conformance.sh [units|guests|tables|all]
#   units    tests that need no machine
#   guests   builds with the elements of tests/elements, and boots with faults;
#            VBUILD_TEST_CACHE and VBUILD_AGENT as for tests/all.sh
#   tables   only writes the tables from what was noted before
set -eu
what=${1:-all}
cd "$(dirname "$0")/.."
results=tests/conformance/results
log=$(mktemp)
trap 'rm -f "$log" "$log.new"' EXIT

# Notes each outcome under the name of the program that cargo made of the tests.
# A test that was skipped says so and is not noted; what was not run stays.
note() {
    awk '
        /^ *Running / { program = $NF; sub(/.*\//, "", program); sub(/-[0-9a-f]*\)$/, "", program) }
        /^test .* \.\.\. (ok|FAILED)$/ { print $NF, program, $2 }
    ' "$log" >"$log.new"
    if [ -f "$results" ]; then
        awk 'NR == FNR { known[$2 " " $3] = 1; next } !(($2 " " $3) in known)' \
            "$log.new" "$results" >>"$log.new"
    fi
    sort -k 2 "$log.new" >"$results"
}

if [ "$what" = units ] || [ "$what" = all ]; then
    for package in dib engine output vbuild b9 base-image remote; do
        cargo test --release --locked --no-fail-fast -p "$package" 2>&1 | tee "$log" || true
        note
    done
fi
if [ "$what" = guests ] || [ "$what" = all ]; then
    : "${VBUILD_TEST_CACHE:?names no cache with an appliance}"
    cargo test --release --locked --no-fail-fast -p tests --test elements -- --test-threads=1 2>&1 |
        tee "$log" || true
    note
    for module in faults b9; do
        cargo test --release --locked --no-fail-fast -p tests --test boots -- --test-threads=1 "$module::" 2>&1 |
            tee "$log" || true
        note
    done
fi
UPDATE_CONFORMANCE=1 cargo test --release --locked -q -p tests --test tidy conformance
