#!/bin/sh
# What the store of builds costs and saves, with whole builds: nothing changed, one late
# script changed, an empty store beside --no-cache, space beside the distinct blocks. What
# the store survives is a matter of tests/faults.sh.
#
# usage: tests/bench/cache.sh
# VBUILD names the binary; the builds use its cache directory's appliance and a
# store of their own. CACHE_ELEMENTS and CACHE_ARGS replace the elements built
# (`tiny-os` of tests/elements and one that writes some megabytes).
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
vbuild=${VBUILD:-$here/../target/release/vbuild}
work=$(mktemp -d "${TMPDIR:-/tmp}/vbuild-cache.XXXXXX")
trap 'rm -rf "$work"' EXIT
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vbuild
mkdir -p "$work/cache" "$work/elements/late/install.d" "$work/elements/late/finalise.d"
for shared in appliance diskimage-builder agent; do
    [ ! -e "$cache/$shared" ] || ln -s "$cache/$shared" "$work/cache/$shared"
done

# With a date, the filesystems are written anew at the end.
export SOURCE_DATE_EPOCH=1
printf '#!/bin/bash\nset -eu\nfor i in {1..%s}; do printf "%%%%s\\n" {10000..60000}; done > /usr/lib/numbers\n' 40 >"$work/elements/late/install.d/50-numbers"
printf '#!/bin/bash\nset -eu\n' >"$work/elements/late/finalise.d/50-late"
chmod +x "$work"/elements/late/*.d/*
elements=${CACHE_ELEMENTS:-tiny-os late}
args=${CACHE_ARGS:---no-network --skip-base --size 600M}
formats=raw,tar

build() { # OPTIONS...
    # shellcheck disable=SC2086
    (cd "$work" && "$vbuild" -p "$here/elements" -p "$work/elements" \
        --cache-dir "$work/cache" --name image -t "$formats" $args "$@" $elements) >"$work/log" 2>&1
}
fail() {
    echo "cache: $1" >&2
    cat "$work/log" >&2
    exit 1
}
seconds() { # COMMAND...
    begin=$(date +%s%N)
    "$@" || fail "the build failed"
    end=$(date +%s%N)
    echo "$begin $end" | awk '{ printf "%.2f", ($2 - $1) / 1e9 }'
}
# Of one length, so that only the content of one file differs.
late() { printf '#!/bin/bash\nset -eu\necho %04d > /etc/late\n' "$1" >"$work/elements/late/finalise.d/50-late"; }
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }

uncached=$(seconds build --no-cache)
empty=$(seconds build --machine-readable="file:$work/events")
still=$(sed -n 's/.*"seconds":\([0-9.]*\).*"keep the disks".*/\1/p; s/.*"keep the disks".*"seconds":\([0-9.]*\).*/\1/p' "$work/events" | sort -u | sort -n | tr '\n' ' ')
nothing=$(seconds build)
! grep -q "Starting the machine" "$work/log" || fail "a machine was started though nothing changed"
late 1
changed=$(seconds build)
taken=$("$vbuild" store du --blocks --cache-dir "$work/cache" | tr '\n' ' ')
echo "uncached            $uncached s"
echo "empty store         $empty s, ratio $(ratio "$empty" "$uncached") (at most 1.05)"
echo "boundaries          the guest stood still for $still s (at most 0.1 each)"
echo "nothing changed     $nothing s (at most 2)"
echo "late script changed $changed s, ratio $(ratio "$changed" "$empty") (at most 0.10 of debian-minimal)"
echo "store               $taken (at most 1.2)"
# A second image that shares the prefix: what it adds beside its own blocks.
before=$(du -s -B1 "$work/cache/store/objects" | cut -f1)
late 2
build || fail "the second image failed"
after=$(du -s -B1 "$work/cache/store/objects" | cut -f1)
echo "a second image      adds $(((after - before) / 1024)) KiB to $((before / 1024)) KiB"
