#!/bin/sh
# The README's first command: from a clean clone to a bootable Debian image, in
# the current directory. Everything after the set-up runs without any privilege.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$here/target}
if [ -n "${VBUILD:-}" ]; then
    vbuild=$VBUILD
else
    sh "$here/tests/setup.sh" build
    sh "$here/tests/build.sh"
    vbuild=$target/release/vbuild
fi

# The mirror of this machine serves debian-security too; the elements' default
# host for it does not answer everywhere.
set -- --envvar DIB_RELEASE=bookworm
mirror=$("$vbuild" appliance mirror 2>/dev/null || true)
if [ -n "$mirror" ]; then
    set -- "$@" --envvar "DIB_DISTRIBUTION_MIRROR=$mirror/debian" \
        --envvar "DIB_DEBIAN_SECURITY_MIRROR=$mirror/debian-security"
fi

[ -e cache.img ] || "$vbuild" cache create cache.img --size 10G
exec "$vbuild" --drive cache.img "$@" --name debian ${VBUILD_ARGS:-} debian-minimal vm
