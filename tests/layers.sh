#!/bin/sh
# Builds a project of layers with nocache and noshare in real guests, changes it,
# and builds it again with other caches: what runs, what does not, what is shared.
#
# usage: tests/layers.sh [VBUILD]      (about two minutes; the appliance must be built)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
vbuild=${1:-$here/../target/release/vbuild}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vbuild
work=$(mktemp -d "${TMPDIR:-/tmp}/vbuild-layers.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp -R "$here/layers/project" "$work/project"
for user in one two; do
    mkdir -p "$work/$user"
    # Only the appliance is common: stores and base images are each their own.
    for part in appliance agent; do
        [ ! -e "$cache/$part" ] || ln -s "$cache/$part" "$work/$user/$part"
    done
done

build() { # user, arguments
    user=$1
    shift
    "$vbuild" layers "$work/project" --cache-dir "$work/$user" --base "$work/base.raw" "$@" > "$work/log" 2>&1 || {
        cat "$work/log" >&2
        echo "layers: FAILED: $user $*" >&2
        exit 1
    }
}
ran() { grep -q "Running: $1/" "$work/log"; }
check() { # what, command
    what=$1
    shift
    if "$@"; then echo "layers: ok: $what"; else
        cat "$work/log" >&2
        echo "layers: FAILED: $what" >&2
        exit 1
    fi
}
not() { ! "$@"; }

"$vbuild" vmdb "$work/project/base.vmdb" --output "$work/base.raw" --cache-dir "$work/one"

build one --remote-cache "$work/shared" --remote-unsigned
for layer in 05_resize 10_base 20_app 30_last; do check "$layer runs at first" ran "$layer"; done
check "the result is a link to an overlay" test "$(readlink "$work/project/build/image.qcow2")" = 30_last.qcow2
check "something is shared" test -d "$work/shared/v1/stages"
cp "$work/project/build/30_last.qcow2" "$work/project/build/first.qcow2"

build one --remote-cache "$work/shared" --remote-unsigned
check "10_base is found again" not ran 10_base
check "20_app is found again" not ran 20_app
check "nocache runs again" ran 30_last

build two --remote-cache "$work/shared" --remote-unsigned
check "10_base is fetched" not ran 10_base
check "20_app was not shared" ran 20_app

echo changed > "$work/project/20_app/more"
build one --last 20_app --flatten -o "$work/flat.qcow2"
check "a changed layer runs" ran 20_app
check "those before it do not" not ran 10_base
check "those behind --last do not" not ran 30_last
rm "$work/project/20_app/more"
build one --last 20_app --flatten -o "$work/flat.qcow2"
check "going back finds the old layer" not ran 20_app

status=0
"$vbuild" layers compare-layers "$work/flat.qcow2" "$work/project/build/first.qcow2" \
    --cache-dir "$work/one" > "$work/log" 2> "$work/errors" || status=$?
check "a copy of an overlay is not one that vbuild has made" test "$status" -gt 1
check "and the refusal says what allows it" grep -q -- --allow-backing= "$work/errors"
status=0
"$vbuild" layers compare-layers --exit-code "$work/flat.qcow2" "$work/project/build/first.qcow2" \
    "--allow-backing=$work/base.raw" --cache-dir "$work/one" > "$work/log" 2> "$work/errors" || status=$?
check "the images differ" test "$status" = 1
check "in the file of the last layer" grep -q '+ /etc/built-last' "$work/log"
check "and in nothing else" test "$(grep -c '^  [-+~]' "$work/log")" = 1

chmod a-w "$work/shared/v1/stages" "$work/shared/v1/objects"
if [ "$(id -u)" -ne 0 ]; then
    echo again > "$work/project/10_base/data"
    status=0
    "$vbuild" layers "$work/project" --cache-dir "$work/one" --base "$work/base.raw" \
        --remote-cache "$work/shared" --remote-unsigned > "$work/log" 2>&1 || status=$?
    check "a push that fails is loud" test "$status" != 0
    check "and says what is kept" grep -q "results are kept in your own cache" "$work/log"
    build one
    check "the local result is kept" not ran 10_base
else
    echo "layers: skipped: root can write everywhere, so no push fails"
fi
chmod u+w "$work/shared/v1/stages" "$work/shared/v1/objects"
echo "layers: all is as it should be"
