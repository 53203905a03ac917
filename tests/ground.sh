# shellcheck shell=sh
# What the scripts that build real images stand on; sourced by them.

# The mirror of Debian that this machine's own apt uses, or nothing when it uses
# none. What serves debian usually serves debian-security beside it.
# VBUILD_TEST_MIRROR says another one.
debian_mirror() {
    if [ -n "${VBUILD_TEST_MIRROR:-}" ]; then
        echo "${VBUILD_TEST_MIRROR%/}"
        return
    fi
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list \
        /etc/apt/sources.list.d/*.sources 2>/dev/null |
        sed -n -e 's/^URIs: *\([^ ]*\).*/\1/p' -e 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' |
        sed -n 's,^\(.*/debian\)/*$,\1,p' | head -n 1
}

# ground NAME PROGRAM: sets $work to a folder (VBUILD_TEST_DIR, which is kept, or a
# new one that goes at the end) with a copy of the program that everybody can read,
# and $user to what makes root an ordinary user without any way back.
ground() {
    work=${VBUILD_TEST_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/vbuild-$1.XXXXXX")}
    [ -n "${VBUILD_TEST_DIR:-}" ] || trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/home" "$work/bin" "$work/out"
    cp "$2" "$work/bin/vbuild"
    chmod -R a+rX "$work/bin"
    chmod a+rx "$work"
    user=env
    if [ "$(id -u)" -eq 0 ]; then
        chown -R 65534 "$work/home" "$work/out"
        user="setpriv --reuid=65534 --clear-groups --bounding-set=-all --no-new-privs"
    fi
    started=$(date +%s)
}

# Runs the program in $work/out as that user, whose home is VBUILD_TEST_HOME or a
# folder beside it.
vbuild() {
    (cd "$work/out" && $user env -i HOME="${VBUILD_TEST_HOME:-$work/home}" TERM=dumb \
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin ${VBUILD_AGENT:+VBUILD_AGENT="$VBUILD_AGENT"} \
        "$work/bin/vbuild" "$@")
}

step() { printf '\n=== %s (%s s)\n' "$1" "$(($(date +%s) - started))"; }

fail() {
    echo "failed: $1" >&2
    exit 1
}
