#!/bin/sh
# Runs the tests that are proofs of tests/conformance, notes their outcomes and
# writes the tables.
#
# usage: tests/conformance.sh [units|guests|tables|all]
#        tests/conformance.sh proofs [NAME]...
#   units    tests that need no machine
#   guests   builds with the elements of tests/elements, and boots with faults;
#            VBUILD_TEST_CACHE and VBUILD_AGENT as for tests/all.sh
#   proofs   slow proofs of tests/tests/recipes whose names hold a NAME (default: all):
#            real systems, built and booted; VBUILD_TEST_DIR keeps what they share
#   tables   only writes the tables from what was noted before
set -eu
what=${1:-all}
cd "$(dirname "$0")/.."
results=tests/conformance/results
log=$(mktemp)
trap 'rm -f "$log" "$log.new" "$log.kept"' EXIT

# Notes the outcome of each test that a row names, under the name of the program that cargo
# made of the tests. A test that was skipped says so and is not noted; what was not run stays.
# Programs that match $1 are passed over.
note() {
    awk -v but="^(${1:-})\$" '
        /^ *Running / { program = $NF; sub(/.*\//, "", program); sub(/-[0-9a-f]*\)$/, "", program) }
        /^test .* \.\.\. (ok|FAILED)$/ && program !~ but { print $NF, program, $2 }
    ' "$log" >"$log.new"
    [ ! -f "$results" ] || cat "$results" >>"$log.new"
    # What was run now comes before what is known from earlier.
    awk 'FILENAME != ARGV[ARGC - 1] {
            if ($1 == "test") named[$2 " " $3] = 1
            # Commands of the recorded session are proved by the one test that runs it.
            if ($1 == "session") named["cli the_session_is_as_recorded"] = 1
            next
        }
        named[$2 " " $3] && !seen[$2 " " $3]++' tests/conformance/*.rows "$log.new" | sort -k 2 >"$log.kept"
    mv "$log.kept" "$results"
}

if [ "$what" = units ] || [ "$what" = all ]; then
    # The whole workspace, so that nothing is compiled for other features; what boots is left
    # to `guests`.
    cargo test --release --locked --no-fail-fast --workspace 2>&1 | tee "$log" || true
    note 'boots|elements'
fi
if [ "$what" = guests ] || [ "$what" = all ]; then
    : "${VBUILD_TEST_CACHE:?names no cache with an appliance}"
    cargo test --release --locked --no-fail-fast --workspace --test elements -- --test-threads=1 2>&1 |
        tee "$log" || true
    note
    for tests in faults:: b9:: cache::two_builds network::a_stage_without; do
        cargo test --release --locked --no-fail-fast --workspace --test boots -- --test-threads=1 "$tests" 2>&1 |
            tee "$log" || true
        note
    done
fi
if [ "$what" = proofs ]; then
    shift
    # What they are doing goes to the terminal, and not among their outcomes.
    echo "Running tests (deps/recipes-0)" >"$log"
    cargo test --release --locked --no-fail-fast --workspace --test recipes -- --ignored \
        --test-threads=1 "$@" >>"$log" || true
    grep -E '^(test|failures|    )' "$log" || true
    note
fi
UPDATE_CONFORMANCE=1 cargo test --release --locked -q --workspace --test tidy conformance
