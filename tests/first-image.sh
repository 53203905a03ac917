#!/bin/sh
# The README's first command: from a clean clone to a bootable Debian image, in
# the current directory. Everything after the set-up runs without any privilege.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
. "$(dirname "$0")/ground.sh"
target=${CARGO_TARGET_DIR:-$here/target}
if [ -n "${VBUILD:-}" ]; then
    vbuild=$VBUILD
elif ! command -v cargo >/dev/null 2>&1 && [ -x "$target/release/vbuild" ]; then
    # Somebody with a compiler has built it here before.
    vbuild=$target/release/vbuild
else
    sh "$here/tests/setup.sh" build
    sh "$here/tests/build.sh"
    vbuild=$target/release/vbuild
fi

# The elements' default host for security updates does not answer everywhere, but
# a mirror that serves debian usually serves debian-security beside it: so both
# are taken from where this machine's own apt looks.
set -- --envvar DIB_RELEASE=bookworm
mirror=$(debian_mirror)
if [ -n "$mirror" ]; then
    set -- "$@" --envvar "DIB_DISTRIBUTION_MIRROR=$mirror" \
        --envvar "DIB_DEBIAN_SECURITY_MIRROR=$mirror-security"
fi

[ -e cache.img ] || "$vbuild" cache create cache.img --size 10G
exec "$vbuild" --drive cache.img "$@" --name debian ${VBUILD_ARGS:-} debian-minimal vm
