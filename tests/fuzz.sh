#!/bin/sh
# Fuzzing under coverage guidance, with the address sanitizer and a memory limit.
#
# usage: sh tests/fuzz.sh [TARGET|all|build|list] [SECONDS]
#        sh tests/fuzz.sh keep TARGET
#   TARGET  runs one target for SECONDS (60); what it finds lies in
#           target/fuzz/artifacts/TARGET, and its corpus in target/fuzz/corpus/TARGET
#   all     every target in turn, SECONDS each (the default)
#   build   only builds the programs
#   keep    puts the smallest part of a corpus that covers the same into
#           tests/fuzz/corpus/TARGET, for the repository
#
# It needs cargo-fuzz (`cargo install cargo-fuzz`), a C++ compiler, and a nightly
# toolchain; without one, the stable one is told to take nightly's options.
# The same bodies run under proptest, and with the corpus of the repository, in the
# ordinary tests; see tests/fuzz/bodies.rs.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
target=${1:-all}
seconds=${2:-60}
folder=$here/tests/fuzz
out=${CARGO_TARGET_DIR:-$here/target}/fuzz
triple=x86_64-unknown-linux-gnu
# An input may take this much; what is kept of all inputs comes on top.
malloc_mib=256
rss_mib=2048
# A kept input has this many bytes at most, so that the repository stays small.
kept_bytes=2048

targets() { sed -n 's/^    ("\([a-z0-9_]*\)",.*/\1/p' "$folder/bodies.rs"; }

build() {
    command -v cargo-fuzz >/dev/null || {
        echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2
        exit 2
    }
    # The versions of the workspace, with the harness added.
    cp Cargo.lock "$folder/Cargo.lock"
    if rustup toolchain list 2>/dev/null | grep -q '^nightly'; then
        cargo +nightly fuzz build --fuzz-dir "$folder" --target-dir "$out" --target "$triple" "$@"
    else
        RUSTC_BOOTSTRAP=1 cargo fuzz build --fuzz-dir "$folder" --target-dir "$out" \
            --target "$triple" "$@"
    fi
}

# Runs a built target with more options of libFuzzer. Leaks are left to the limit of memory: a thread
# of a target that has just ended looks like one.
run() {
    name=$1
    shift
    mkdir -p "$out/corpus/$name" "$out/artifacts/$name" "$out/tmp" "$folder/corpus/$name"
    ASAN_OPTIONS=${ASAN_OPTIONS:-detect_odr_violation=0:allocator_may_return_null=0} \
        TMPDIR=$out/tmp RUST_BACKTRACE=1 "$out/$triple/release/$name" \
        -rss_limit_mb="$rss_mib" -malloc_limit_mb="$malloc_mib" -timeout=20 -detect_leaks=0 \
        -artifact_prefix="$out/artifacts/$name/" "$@"
}

known() {
    targets | grep -qx "$1" || {
        echo "there is no target $1; there are:" >&2
        targets >&2
        exit 2
    }
}

case $target in
list) targets ;;
build) build ;;
all)
    build
    failed=
    for name in $(targets); do
        echo "=== $name"
        run "$name" -max_total_time="$seconds" -print_final_stats=1 \
            "$out/corpus/$name" "$folder/corpus/$name" || failed="$failed $name"
    done
    [ -z "$failed" ] || {
        echo "these found something:$failed" >&2
        exit 1
    }
    ;;
keep)
    known "$seconds"
    build "$seconds"
    small=$out/small/$seconds
    rm -rf "$small"
    mkdir -p "$small"
    run "$seconds" -set_cover_merge=1 -max_len="$kept_bytes" "$small" \
        "$folder/corpus/$seconds" "$out/corpus/$seconds"
    rm -rf "${folder:?}/corpus/$seconds"
    mv "$small" "$folder/corpus/$seconds"
    ;;
*)
    known "$target"
    build "$target"
    run "$target" -max_total_time="$seconds" -print_final_stats=1 \
        "$out/corpus/$target" "$folder/corpus/$target"
    ;;
esac
