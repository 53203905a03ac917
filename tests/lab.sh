#!/bin/sh
# The KVM lab: the own VMM on a real /dev/kvm, on a machine that has none.
#
#   level 0  this machine; vbuild's QEMU backend emulates a processor with SVM
#   level 1  vbuild's appliance with kvm-amd loaded, and vbuild in it
#   level 2  the same appliance, run by vbuild's own VMM with --accel kvm
#
# Everything in it goes through vbuild itself: `vbuild exec` boots level 1, and
# the tests that boot guests, the same that run over QEMU, boot level 2 there.
#
# usage: tests/lab.sh [SUITE]...      (default: doctor machine devices build)
#   doctor   `vbuild doctor` and `--accel auto` choose KVM; a command in level 2
#   machine  processors, ends, confinement, hostile guests, sessions, saved machines
#   devices  disks and streams
#   cache    a stage cache that works by swapping layers under a running guest
#   layers   a project of layer folders, as an ordinary user
#   b9       the samples of B9, as an ordinary user (needs a network: level 1 gets the
#            package qemu-utils)
#   build    a whole image, compared with the one that QEMU's backend makes
#   bench    figures beside QEMU's with KVM at the same level (needs a network:
#            level 1 gets the package qemu-system-x86)
#
# VBUILD_TEST_CACHE names a cache that holds an appliance; without it one is made.
# LAB_MEMORY (MiB of level 1, 4096), LAB_SMP (its processors), LAB_FILTER (only
# tests whose names hold it), LAB_TIMEOUT (seconds that level 1 gets, 1200), LAB_SILENCE
# (seconds without a sign of life after which it stands still, 240).
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
target=${CARGO_TARGET_DIR:-$here/target}
suites=$* beside=
# By default two machines of level 1 run side by side, since each has one processor.
[ $# -gt 0 ] || suites="doctor machine" beside="devices build"

cargo agent --locked
VBUILD_AGENT="$target/x86_64-unknown-linux-gnu/release/vbuild-agent"
VBUILD_EMBED_AGENT=$VBUILD_AGENT
export VBUILD_AGENT VBUILD_EMBED_AGENT
cargo build --release --locked --workspace --bin vbuild
tests=$(cargo test --release --locked --workspace --test boots --test elements --test recipes --bench vmm --no-run \
    --message-format=json | grep -E '"kind":\["(test|bench)"\]' |
    sed -n 's/.*"executable":"\([^"]*\)".*/\1/p')

work=$(mktemp -d "${TMPDIR:-/tmp}/vbuild-lab.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cache=${VBUILD_TEST_CACHE:-$work/cache}
vbuild() { "$target/release/vbuild" "$@"; }
outside="--accel tcg --cache-dir $cache"
# shellcheck disable=SC2086
vbuild appliance build $outside
extra=
case " $suites " in
*" bench "*) extra="--appliance-package qemu-system-x86" ;;
*" b9 "*) extra="--appliance-package qemu-utils" ;;
esac
# shellcheck disable=SC2086
[ -z "$extra" ] || vbuild appliance build $outside $extra

# What level 1 gets: programs where the tests expect them, and the appliance.
lab=$work/lab
mkdir -p "$lab/target/release/deps" "$lab/cache/appliance" "$lab/tests"
strip -o "$lab/target/release/vbuild" "$target/release/vbuild"
for program in $tests; do
    name=$(basename "$program")
    strip -o "$lab/target/release/deps/${name%-*}" "$program"
done
cp "$VBUILD_AGENT" "$lab/agent"
cp -R tests/elements tests/layers tests/b9 "$lab/tests/"
cp tests/lab/* "$lab/"
case " $suites $beside " in
*" build "*)
    # The same build over QEMU, here, to compare with.
    mkdir "$lab/reference"
    sh tests/lab/build.sh "$target/release/vbuild" tcg "$cache" "$here/tests/elements" "$lab/reference"
    ;;
esac
# What that fetched: diskimage-builder's own elements.
if [ -d "$cache/diskimage-builder" ]; then cp -R "$cache/diskimage-builder" "$lab/cache/"; fi
for part in "$cache"/appliance/*; do
    case $part in */files) ;; *) cp -R --sparse=always "$part" "$lab/cache/appliance/" ;; esac
done
printf '%s\n' "$here" >"$lab/here"
truncate -s 16G "$work/lab.img"
mke2fs -q -F -t ext4 -O ^has_journal -E lazy_itable_init=1 -d "$lab" "$work/lab.img"
rm -rf "$lab"

# lane NAME SUITE...: these suites in a level 1 of their own. It has one processor,
# because with two the emulation of SVM now and then comes back to the kernel of
# level 1 with registers of level 2, and that kernel dies of it or stands still. For
# the same reason a level 1 that is gone (125: the machine, not a test, has failed),
# that stands still (no beat of tests/lab/inside.sh for LAB_SILENCE seconds) or is out
# of time (124) is started once more, and told.
lane() {
    name=$1
    shift
    for attempt in first second; do
        cp --sparse=always "$work/lab.img" "$work/$name.img"
        : >"$work/$name.level1"
        status=0
        # In this script's group: what ends the script by its group ends level 1 too.
        # shellcheck disable=SC2086
        timeout --foreground "${LAB_TIMEOUT:-1200}" "$target/release/vbuild" exec $outside $extra --no-network \
            --smp "${LAB_SMP:-1}" --memsize "${LAB_MEMORY:-4096}" --drive "$work/$name.img" -- \
            env LAB_FILTER="${LAB_FILTER:-}" sh /helper/inside.sh "$@" >"$work/$name.level1" 2>&1 &
        level1=$!
        silent=0 size=-1
        while kill -0 "$level1" 2>/dev/null; do
            sleep 5
            now=$(stat -c %s "$work/$name.level1")
            silent=$((silent + 5))
            [ "$now" -eq "$size" ] || silent=0
            size=$now
            if [ "$silent" -ge "${LAB_SILENCE:-240}" ]; then
                echo "lab: level 1 has been silent for $silent s"
                kill "$level1"
                break
            fi
        done
        wait "$level1" || status=$?
        [ "$silent" -lt "${LAB_SILENCE:-240}" ] || status=124
        grep -v '^lab: beat$' "$work/$name.level1" || true
        case $status in
        124 | 125) echo "lab: level 1 is gone or stands still (status $status) in the $attempt of two attempts" ;;
        *) return "$status" ;;
        esac
    done
    return "$status"
}

if [ -n "$beside" ]; then
    # shellcheck disable=SC2086
    lane beside $beside >"$work/beside.log" 2>&1 &
    other=$!
fi
status=0
# shellcheck disable=SC2086
lane first $suites || status=$?
if [ -n "$beside" ]; then
    wait "$other" || status=$?
    cat "$work/beside.log"
fi
exit "$status"
