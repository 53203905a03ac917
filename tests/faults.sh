#!/bin/sh
# Builds that are disturbed at a random moment: a kill of vbuild, of its machine or of
# the guest's agent, a full disk, an I/O error of a drive, damage in the store, a mirror
# that stalls, lies or breaks off. After each there must be no process, no file and no
# lock left, the helper drive and the earlier outputs whole, and the next build's tree
# must be that of an undisturbed one.
#
# usage: tests/faults.sh N [SEED]
#   N rounds; round i is drawn from the number SEED + i, which it prints. A round that
#   goes wrong keeps its folder. At the end there is a table of faults and outcomes;
#   the exit status is 1 when a round went wrong.
#
# VBUILD names the program and VBUILD_FAULTS the harness (without them they are built),
# VBUILD_TEST_CACHE a cache with an appliance, VBUILD_FAULTS_ONLY a part of a fault's
# name, TMPDIR where the rounds are.
# Called by root, all of it happens as the user 65534.
set -eu
count=${1:?usage: tests/faults.sh N [SEED]}
seed=${2:-$(date +%s)}
here=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$here/target}
cache=${VBUILD_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vbuild}
[ -d "$cache/appliance" ] || {
    echo "faults: no appliance in $cache: run \`vbuild appliance build\`, or set VBUILD_TEST_CACHE" >&2
    exit 2
}

cd "$here"
# With --workspace, what the tests have compiled is not compiled again.
if [ -z "${VBUILD:-}" ]; then
    cargo agent --locked
    VBUILD_EMBED_AGENT="$target/x86_64-unknown-linux-gnu/release/vbuild-agent" \
        cargo build --release --locked --workspace --bin vbuild
    VBUILD="$target/release/vbuild"
fi
[ -n "${VBUILD_FAULTS:-}" ] || cargo build --release --locked --workspace --bin faults

# The user may not be able to read where the sources are.
work=$(mktemp -d "${TMPDIR:-/tmp}/vbuild-faults.XXXXXX")
cp "$VBUILD" "$work/vbuild"
cp "${VBUILD_FAULTS:-$target/release/faults}" "$work/faults"
cp -R tests/faults "$work/recipes"
cp -R tests/elements "$work/elements"
mkdir "$work/rounds"
user="env"
if [ "$(id -u)" -eq 0 ]; then
    if [ "$(stat -c %u "$cache/appliance")" -ne 65534 ]; then
        mkdir "$work/cache"
        for name in appliance diskimage-builder; do
            [ ! -d "$cache/$name" ] || cp -a --reflink=auto "$cache/$name" "$work/cache/"
        done
        cache=$work/cache
    fi
    chown -R 65534 "$work"
    user="setpriv --reuid=65534 --clear-groups --bounding-set=-all --no-new-privs"
fi
chmod -R a+rX "$work"

as_user() {
    $user env -i HOME="$work" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
        ${PIP_INDEX_URL:+"PIP_INDEX_URL=$PIP_INDEX_URL"} "$@"
}
# diskimage-builder is fetched once, and not by each round.
[ -d "$cache/diskimage-builder" ] ||
    (cd "$work" && as_user "$work/vbuild" plan --skip-base -p elements --cache-dir "$cache" tiny-os >/dev/null)

status=0
as_user VBUILD_FAULTS_DIR="$work/rounds" \
    VBUILD="$work/vbuild" VBUILD_TEST_CACHE="$cache" VBUILD_TEST_ACCEL="${VBUILD_TEST_ACCEL:-auto}" \
    VBUILD_FAULTS_RECIPES="$work/recipes" VBUILD_FAULTS_ELEMENTS="$work/elements" \
    ${VBUILD_FAULTS_ONLY:+"VBUILD_FAULTS_ONLY=$VBUILD_FAULTS_ONLY"} \
    "$work/faults" "$count" "$seed" || status=$?
if [ "$status" -eq 0 ]; then
    rm -rf "$work"
else
    # Only the folders of rounds that went wrong are worth their room.
    rm -rf "$work/cache" "$work/vbuild" "$work/faults" "$work/recipes" "$work/elements"
fi
exit "$status"
