#!/bin/sh
# Figures of this machine, each with the peer's beside it where the peer is
# installed (apt-get install guestfish libguestfs-tools). Nothing is asserted:
# read the ratios on a quiet machine.
#
# usage: tests/bench/run.sh [start|guest|cache|image]...   (default: start guest)
#   start  from vbuild's start to a guest command's answer, beside guestfish
#   guest  processes and bytes through the agent
#   cache  what the store costs and saves: tests/bench/cache.sh
#   image  debian-minimal vm, beside virt-dib with the same elements (very long)
# VBUILD_TEST_DIR keeps the caches between runs; BENCH_RUNS is 5.
set -eu
here=$(cd "$(dirname "$0")/../.." && pwd)
cd "$here"
target=${CARGO_TARGET_DIR:-$here/target}
runs=${BENCH_RUNS:-5}
[ $# -gt 0 ] || set -- start guest
sh tests/build.sh
work=${VBUILD_TEST_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/vbuild-bench.XXXXXX")}
mkdir -p "$work/home" "$work/bin"
cp "$target/release/vbuild" "$work/bin/"
vbuild="env HOME=$work/home $work/bin/vbuild"

now() { date +%s.%N; }
# Seconds of the quickest of several runs.
best() {
    least=
    for _ in $(seq "$runs"); do
        from=$(now)
        "$@" >/dev/null 2>&1
        took=$(echo "$(now) - $from" | bc)
        if [ -z "$least" ] || [ "$(echo "$took < $least" | bc)" = 1 ]; then least=$took; fi
    done
    printf '%.2f' "$least"
}
beside() { # what, ours, name, theirs
    echo "$1: vbuild $2 s, $3 $4 s, ratio $(echo "scale=2; $2 / $4" | bc)"
}

ls -l "$work/bin/vbuild" | awk '{ printf "the stripped binary: %.1f MiB (goal 15)\n", $5 / 1048576 }'
$vbuild appliance build >/dev/null 2>&1

for what; do
    case $what in
    start)
        cold=$(best $vbuild exec --accel tcg --no-network --cold -- true)
        # The first one saves the machine that the others are restored from.
        $vbuild exec --accel tcg --no-network -- true
        warm=$(best $vbuild exec --accel tcg --no-network -- true)
        if command -v guestfish >/dev/null 2>&1; then
            export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
            guestfish -a /dev/null run >/dev/null 2>&1 || echo "guestfish does not start here" >&2
            peer=$(best guestfish -a /dev/null run)
            beside "start, boot, one command (goal 0.20)" "$cold" guestfish "$peer"
            beside "start, restore, one command (goal 0.08)" "$warm" guestfish "$peer"
        else
            echo "start, boot, one command: vbuild $cold s (guestfish is not installed)"
            echo "start, restore, one command: vbuild $warm s"
        fi
        ;;
    guest)
        cargo agent --locked 2>/dev/null
        VBUILD_TEST_CACHE="$work/home/.cache/vbuild" VBUILD_TEST_ACCEL=tcg \
            VBUILD_AGENT="$target/x86_64-unknown-linux-gnu/release/vbuild-agent" \
            cargo bench --locked --package tests --bench guest
        ;;
    cache) VBUILD="$work/bin/vbuild" HOME="$work/home" sh tests/bench/cache.sh ;;
    image)
        mkdir -p "$work/image"
        from=$(now)
        (cd "$work/image" && VBUILD="$work/bin/vbuild" HOME="$work/home" VBUILD_ARGS="--accel tcg --smp 2 --no-cache" \
            sh "$here/tests/first-image.sh" >"$work/vbuild.log" 2>&1) &
        build=$!
        most=0
        while kill -0 "$build" 2>/dev/null; do
            for pid in $(pgrep -f "^$work/bin/vbuild " || true); do
                rss=$(awk '/^(RssAnon|RssFile)/ { sum += $2 } END { print sum + 0 }' "/proc/$pid/status" 2>/dev/null || echo 0)
                [ "${rss:-0}" -le "$most" ] || most=$rss
            done
            sleep 1
        done
        wait "$build"
        ours=$(echo "$(now) - $from" | bc)
        echo "vbuild's own resident memory at most (beside the guest's): $((most / 1024)) MiB (goal 64)"
        elements=$(ls -d "$work"/home/.cache/vbuild/diskimage-builder/*/diskimage_builder 2>/dev/null | head -1)
        if command -v virt-dib >/dev/null 2>&1 && [ -n "$elements" ]; then
            export LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg
            from=$(now)
            (cd "$work/image" && qemu-img create -q -f raw drive.img 10G && mkfs.ext4 -q -F drive.img &&
                virt-dib -B "$elements/lib" -p "$elements/elements" --drive drive.img --smp 2 -m 2048 \
                    --envvar DIB_RELEASE=bookworm --name virt debian-minimal vm) >"$work/virt-dib.log" 2>&1 || true
            beside "debian-minimal vm (goal 0.4)" "$ours" virt-dib "$(echo "$(now) - $from" | bc)"
        else
            echo "debian-minimal vm: vbuild $ours s (virt-dib is not installed)"
        fi
        ;;
    *)
        echo "run.sh: no benchmark is called $what" >&2
        exit 2
        ;;
    esac
done
[ -n "${VBUILD_TEST_DIR:-}" ] || rm -rf "$work"
