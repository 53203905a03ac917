#!/bin/sh
# Builds the same elements with diskimage-builder itself, here and as root, and with
# vbuild, and compares what comes out: packages, files with owner, mode and
# attributes, and the files that describe the system. The differences go to
# standard output; tests/conformance/dib-native.md explains them.
#
# usage: tests/dib-native.sh [ELEMENT]...      (default: debian-minimal)
# VBUILD names the program (default: the release build), VBUILD_TEST_DIR a folder
# that is kept, VBUILD_TEST_HOME a home whose caches vbuild uses. The archive of a
# vbuild build that is there already as $VBUILD_TEST_DIR/ours.tar is not made again,
# and native.tar likewise.
#
# diskimage-builder changes the machine that it runs on: caches, whatever its
# elements do. Run this where that does not matter. What it mounts stays in a mount
# namespace of its own. Where device-mapper is
# missing no partition can be made, so the trees are compared as archives.
set -eu
[ "$(id -u)" -eq 0 ] || {
    echo "diskimage-builder needs root" >&2
    exit 1
}
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -gt 0 ] || set -- debian-minimal
program=${VBUILD:-${CARGO_TARGET_DIR:-$here/target}/release/vbuild}
. "$here/tests/ground.sh"
ground native "$program"
mkdir -p "$work/native-home" "$work/tmp" "$work/elements/no-device/block-device.d"
mirror=$(debian_mirror)

# diskimage-builder calls sudo for everything, also as root.
if ! command -v sudo >/dev/null; then
    cat >"$work/bin/sudo" <<'EOF'
#!/bin/bash
while :; do
    case ${1:-} in
        -E | -H | -n | -i | --) shift ;;
        -u) shift 2 ;;
        *=*) export "${1?}"; shift ;;
        *) break ;;
    esac
done
exec "$@"
EOF
    chmod +x "$work/bin/sudo"
fi
# Without device-mapper: an element that says there is a device, so that none is
# made and the tree stays a directory.
printf '#!/bin/sh\nmkdir -p "$TMP_BUILD_DIR/mnt"\necho IMAGE_BLOCK_DEVICE=/dev/null\n' >"$work/elements/no-device/block-device.d/10-none"
chmod +x "$work/elements/no-device/block-device.d/10-none"

if [ ! -e "$work/native.tar" ]; then
    [ -d "$work/venv" ] || python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet 'diskimage-builder==3.43.0' 'setuptools<81'
    (
        cd "$work"
        PATH="$work/bin:$work/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
            DIB_RELEASE=bookworm DIB_DISTRIBUTION_MIRROR="$mirror" \
            DIB_DEBIAN_SECURITY_MIRROR="$mirror-security" ELEMENTS_PATH="$work/elements" \
            DIB_IMAGE_CACHE="$work/cache" HOME="$work/native-home" DIB_NO_TMPFS=1 TMP_DIR="$work/tmp" \
            unshare --mount --propagation private disk-image-create -t tar -o native --no-tmpfs "$@" no-device
    ) >"$work/native.log" 2>&1 || true
    # It ends with an error all the same: the archive is made, and then it looks for
    # the disk.
    [ -s "$work/native.tar" ] || {
        tail -n 20 "$work/native.log" >&2
        exit 1
    }
fi
if [ ! -e "$work/ours.tar" ]; then
    vbuild -v --formats tar --name ours --envvar DIB_RELEASE=bookworm \
        --envvar "DIB_DISTRIBUTION_MIRROR=$mirror" \
        --envvar "DIB_DEBIAN_SECURITY_MIRROR=$mirror-security" ${VBUILD_ARGS:-} "$@" \
        >"$work/ours.log" 2>&1 || {
        tail -n 20 "$work/ours.log" >&2
        exit 1
    }
    mv "$work/out/ours.tar" "$work/ours.tar"
fi

python3 "$here/tests/compare-trees.py" "$work/native.tar" "$work/ours.tar"
