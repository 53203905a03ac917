#!/bin/sh
# What the cache must reach, and what it must survive, with whole builds.
#
# usage: tests/cache.sh bench|kills [COUNT]|full
#   bench   ratios of one run: nothing changed, one late script changed, an empty
#           store beside --no-cache, space beside the distinct blocks
#   kills   COUNT (200) builds that are killed at random moments; the build after
#           each must give the tree of an uncached one
#   full    the same with a store that has no room
#
# VBUILD names the binary; the builds use its cache directory's appliance and a
# store of their own. CACHE_ELEMENTS and CACHE_ARGS replace the elements built
# (`tiny-os` of tests/elements and one that writes some megabytes).
set -eu
mode=${1:?bench, kills or full}
count=${2:-200}
here=$(cd "$(dirname "$0")" && pwd)
vbuild=${VBUILD:-$here/../target/release/vbuild}
work=$(mktemp -d "${TMPDIR:-/tmp}/vbuild-cache.XXXXXX")
trap 'rm -rf "$work"' EXIT
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vbuild
mkdir -p "$work/cache" "$work/elements/late/install.d" "$work/elements/late/finalise.d"
for shared in appliance diskimage-builder agent; do
    [ ! -e "$cache/$shared" ] || ln -s "$cache/$shared" "$work/cache/$shared"
done

printf '#!/bin/bash\nset -eu\nfor i in {1..40}; do printf "%%s\\n" {10000..60000}; done > /usr/lib/numbers\n' >"$work/elements/late/install.d/50-numbers"
printf '#!/bin/bash\nset -eu\necho 0 > /etc/late\n' >"$work/elements/late/finalise.d/50-late"
chmod +x "$work"/elements/late/*.d/*
elements=${CACHE_ELEMENTS:-tiny-os late}
args=${CACHE_ARGS:---no-network --skip-base --size 600M}
formats=raw,tar

build() { # OPTIONS...
    # shellcheck disable=SC2086
    (cd "$work" && SOURCE_DATE_EPOCH=1 "$vbuild" -p "$here/elements" -p "$work/elements" \
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
late() { printf '#!/bin/bash\nset -eu\necho %s > /etc/late\n' "$1" >"$work/elements/late/finalise.d/50-late"; }
# Everything about a tree but its times.
tree() { # TAR
    tar --numeric-owner --xattrs -tvf "$1" | awk '{ $4 = $5 = ""; print }' | sort
    # shellcheck disable=SC2016
    tar -xf "$1" --to-command='echo "$(sha256sum) $TAR_FILENAME"' | sort
}
reference() {
    build --no-cache || fail "the uncached build failed"
    tree "$work/image.tar" >"$work/expected"
    rm -f "$work"/image.*
}
compare() {
    tree "$work/image.tar" >"$work/found"
    diff "$work/expected" "$work/found" >"$work/diff" || {
        cat "$work/diff" >&2
        fail "another tree than that of an uncached build ($1)"
    }
    rm -rf "$work"/image.*
}
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }

case $mode in
bench)
    uncached=$(seconds build --no-cache)
    empty=$(seconds build)
    nothing=$(seconds build)
    ! grep -q "Starting the machine" "$work/log" || fail "a machine was started though nothing changed"
    late 1
    changed=$(seconds build)
    taken=$("$vbuild" store du --cache-dir "$work/cache")
    stored=$(du -s -B1 "$work/cache/store/objects" | cut -f1)
    distinct=$(du -s -B1 "$work/image.raw" | cut -f1)
    echo "uncached            $uncached s"
    echo "empty store         $empty s, ratio $(ratio "$empty" "$uncached") (at most 1.05)"
    echo "nothing changed     $nothing s (at most 2)"
    echo "late script changed $changed s, ratio $(ratio "$changed" "$empty") (at most 0.10 of debian-minimal)"
    echo "store               $taken; $(ratio "$stored" "$distinct") of the image's blocks"
    ;;
kills)
    reference
    build || fail "the first build failed"
    rm -rf "$work"/image.*
    longest=20
    done=0
    while [ "$done" -lt "$count" ]; do
        done=$((done + 1))
        # A different late script each time, so that there is something to do,
        # and sometimes everything anew.
        late "$done"
        refresh=""
        [ $((done % 3)) -ne 0 ] || refresh="--refresh=install.d"
        pause=$(awk -v seed="$done$$" -v max="$longest" 'BEGIN { srand(seed); printf "%.3f", rand() * max }')
        # shellcheck disable=SC2086
        (cd "$work" && SOURCE_DATE_EPOCH=1 exec "$vbuild" -p "$here/elements" -p "$work/elements" \
            --cache-dir "$work/cache" --name image -t "$formats" $args $refresh $elements) >"$work/killed" 2>&1 &
        victim=$!
        sleep "$pause"
        kill -KILL "$victim" 2>/dev/null || true
        wait "$victim" 2>/dev/null || true
        rm -rf "$work"/image.*
        late 0
        build || fail "the build after a kill at $pause s failed"
        compare "killed at $pause s"
        "$vbuild" store verify --cache-dir "$work/cache" >"$work/verified" || {
            cat "$work/verified"
            fail "the store is damaged after a kill at $pause s"
        }
        "$vbuild" store gc --cache-dir "$work/cache" >/dev/null
    done
    echo "$count kills, the same tree after each; $("$vbuild" store du --cache-dir "$work/cache")"
    ;;
full)
    reference
    # A small filesystem of this process alone.
    export work vbuild here elements args formats
    unshare --map-root-user --mount sh -ec '
        mkdir -p "$work/cache/store" && mount -t tmpfs -o size=4m none "$work/cache/store"
        cd "$work"
        SOURCE_DATE_EPOCH=1 "$vbuild" -p "$here/elements" -p "$work/elements" --cache-dir "$work/cache" \
            --name image -t "$formats" $args $elements >"$work/log" 2>&1
        "$vbuild" store verify --cache-dir "$work/cache"' || fail "a build with a full store failed"
    grep -q "are not kept" "$work/log" || fail "a full store was not told"
    compare "full store"
    echo "a full store: told, and the same tree"
    ;;
*) fail "unknown mode $mode" ;;
esac
