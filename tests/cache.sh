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

# With a date, the filesystems are written anew at the end, which takes most of so
# small a build: the kills would hardly hit anything else.
rounds=40
export SOURCE_DATE_EPOCH=1
if [ "$mode" = kills ]; then
    rounds=5
    unset SOURCE_DATE_EPOCH
fi
printf '#!/bin/bash\nset -eu\nfor i in {1..%s}; do printf "%%%%s\\n" {10000..60000}; done > /usr/lib/numbers\n' "$rounds" >"$work/elements/late/install.d/50-numbers"
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
# Everything about a tree but its times.
tree() { # TAR
    contents "$1" | sort
}
contents() {
    tar --numeric-owner --xattrs -tvf "$1" | awk '{ $4 = $5 = ""; print }'
    # shellcheck disable=SC2016
    tar -xf "$1" --to-command='echo "$(sha256sum) $TAR_FILENAME"'
}
reference() {
    build --no-cache || fail "the uncached build failed"
    tree "$work/image.tar" >"$work/expected"
    rm -f "$work"/image.*
}
compare() { # MESSAGE [NUMBER OF THE LATE SCRIPT]
    tree "$work/image.tar" >"$work/found"
    was=$(printf '%04d\n' 0 | sha256sum)
    is=$(printf '%04d\n' "${2:-0}" | sha256sum)
    sed "s/${was%% *}/${is%% *}/" "$work/expected" | sort | diff - "$work/found" >"$work/diff" || {
        cat "$work/diff" >&2
        fail "another tree than that of an uncached build ($1)"
    }
    rm -rf "$work"/image.*
}
ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.3f", a / b }'; }

case $mode in
bench)
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
    ;;
kills)
    # The uncached tree and the time of a build that begins anew, and that of
    # one that has a late script to do.
    late 0
    reference
    whole=$(seconds build)
    rm -rf "$work"/image.*
    late 1
    short=$(seconds build)
    rm -rf "$work"/image.*
    echo "a whole build takes $whole s, one late script $short s"
    done=0
    resumed=0
    while [ "$done" -lt "$count" ]; do
        done=$((done + 1))
        # Another late script each time, so that there is something to do, and
        # every third time everything in and behind a stage in the middle.
        late "$((done + 1))"
        refresh=""
        longest=$short
        if [ $((done % 3)) -eq 0 ]; then
            refresh="--refresh=install.d"
            longest=$whole
        fi
        pause=$(awk -v seed="$done$$" -v max="$longest" 'BEGIN { srand(seed); printf "%.3f", rand() * max }')
        # shellcheck disable=SC2086
        (cd "$work" && exec "$vbuild" -p "$here/elements" -p "$work/elements" \
            --cache-dir "$work/cache" --name image -t "$formats" $args $refresh $elements) >"$work/killed" 2>&1 &
        victim=$!
        sleep "$pause"
        kill -KILL "$victim" 2>/dev/null || true
        wait "$victim" 2>/dev/null || true
        rm -rf "$work"/image.*
        # The same build again, with whatever the dead one has left.
        build || fail "the build after a kill at $pause s failed"
        ! grep -q "^warning:" "$work/log" || grep "^warning:" "$work/log"
        [ "$(grep -c "Starting the machine" "$work/log")" -eq 0 ] || resumed=$((resumed + 1))
        compare "killed at $pause s" "$((done + 1))"
        "$vbuild" store verify --cache-dir "$work/cache" >"$work/verified" || {
            cat "$work/verified"
            fail "the store is damaged after a kill at $pause s"
        }
        # Garbage goes, and sometimes results that the next build could use.
        limit=""
        [ $((done % 20)) -ne 0 ] || limit="--max-size=30M"
        # shellcheck disable=SC2086
        "$vbuild" store gc $limit --cache-dir "$work/cache" >/dev/null
        [ $((done % 10)) -ne 0 ] || echo "$done kills, $(date -u +%H:%M:%S)"
    done
    echo "$count kills, the same tree after each, in $resumed of them from what was left;" \
        "$("$vbuild" store du --cache-dir "$work/cache")"
    ;;
full)
    reference
    # A small filesystem of this process alone.
    export work vbuild here elements args formats
    unshare --map-root-user --mount sh -ec '
        mkdir -p "$work/cache/store" && mount -t tmpfs -o size=4m none "$work/cache/store"
        cd "$work"
        "$vbuild" -p "$here/elements" -p "$work/elements" --cache-dir "$work/cache" \
            --name image -t "$formats" $args $elements >"$work/log" 2>&1
        "$vbuild" store verify --cache-dir "$work/cache"' || fail "a build with a full store failed"
    grep -q "are not kept" "$work/log" || fail "a full store was not told"
    compare "full store"
    echo "a full store: told, and the same tree"
    ;;
*) fail "unknown mode $mode" ;;
esac
