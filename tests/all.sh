#!/bin/sh
# The README's second command: everything that says whether vbuild works.
#
#   1. formatting and lints          2. tests that need no machine
#   3. real boots of the appliance   4. a real Debian image, built as an ordinary
#      user (uid 65534 when run as root) and booted to its login prompt
#   5. the own VMM on an emulated KVM: tests/lab.sh
#
# The appliance, 4 and 5 run beside the others, one after the other, so that neither processor
# waits.
#
# usage: tests/all.sh [unit|guest|first|image|beside|all]
#   unit   1 and 2
#   guest  and the appliance, made as that user, with a command run in it
#   first  the appliance and that command, with the program that is in VBUILD_TEST_DIR/bin
#   image  4 alone, with the same program
#   beside first, 4 and 5, as `all` starts them
#   all    everything (the default)
# VBUILD_TEST_DIR keeps the caches of 3 and 4 between runs.
set -eu
level=${1:-all}
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"
target=${CARGO_TARGET_DIR:-$here/target}

# The parts that run beside the rest need no set-up and no build.
case $level in
first | image | beside) part=of_it ;;
*) part=whole ;;
esac

step() { printf '\n=== %s (%s s)\n' "$1" "$(($(date +%s) - started))"; }
started=$(date +%s)

if [ "$part" = whole ]; then
    step "set-up"
    sh tests/setup.sh test
    step "formatting"
    cargo fmt --all --check
fi

lints() {
    step "lints"
    agent
    cargo clippy --release --workspace --all-targets --locked -- -D warnings
}
unit_tests() {
    step "tests without a machine"
    cargo test --release --workspace --locked
}
# The agent for the tests. It is in the program too, as tests/build.sh puts it there: so
# that is not compiled twice.
agent() {
    cargo agent --locked
    VBUILD_AGENT="$target/x86_64-unknown-linux-gnu/release/vbuild-agent"
    VBUILD_EMBED_AGENT=$VBUILD_AGENT
    export VBUILD_AGENT VBUILD_EMBED_AGENT
}
if [ "$level" = unit ]; then
    lints
    unit_tests
    exit 0
fi

# The release build comes first, because the image that it then makes takes long and
# mostly keeps one processor busy: everything else runs beside it. Lints and tests use
# the release profile, too: macros, build scripts and other people's crates are then
# compiled once. `timeout` hands a signal to all that it has started, so nothing
# outlives this script.
if [ "$part" = whole ]; then
    step "the release build"
    timeout 3600 sh tests/build.sh
fi

# From here on as an ordinary user: no capability, no way to get one, a home of
# its own that holds nothing.
work=${VBUILD_TEST_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/vbuild-tests.XXXXXX")}
mkdir -p "$work/home" "$work/bin" "$work/image"
[ "$part" = of_it ] || cp "$target/release/vbuild" tests/first-image.sh tests/ground.sh "$work/bin/"
chmod -R a+rX "$work/bin"
chmod a+rx "$work"
if [ "$(id -u)" -eq 0 ]; then
    chown -R 65534 "$work/home" "$work/image"
    user="setpriv --reuid=65534 --clear-groups --bounding-set=-all --no-new-privs"
else
    user="env"
fi
as_user() {
    $user env -i HOME="$work/home" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin TERM=dumb \
        VBUILD="$work/bin/vbuild" VBUILD_ARGS="${VBUILD_ARGS:-}" "$@"
}

# The appliance, made by the program, and a command in a fresh guest.
first_guest() {
    step "what this machine can do"
    (cd "$work/home" && as_user "$work/bin/vbuild" doctor) || true

    step "the appliance"
    (cd "$work/home" && as_user "$work/bin/vbuild" appliance build)

    step "a command in a fresh guest, with a helper drive and the network"
    (
        cd "$work/home"
        as_user "$work/bin/vbuild" cache create cache.img --size 1G
        as_user "$work/bin/vbuild" exec --drive cache.img -- \
            sh -ec 'id -u; uname -r; test -d /helper/lost+found; echo kept >/helper/note'
        as_user "$work/bin/vbuild" exec --drive cache.img --no-network -- cat /helper/note
    )
}
if [ "$level" = first ]; then
    first_guest
    exit 0
fi

if [ "$level" = beside ]; then
    # In the foreground: in the group of the `timeout` that runs this part, and so ended with it.
    for name in first image; do
        status=0
        VBUILD_TEST_DIR="$work" timeout --foreground 4500 \
            sh "$here/tests/all.sh" "$name" >"$work/$name.log" 2>&1 || status=$?
        echo "$status" >"$work/$name.status"
    done
    # The lab needs what the tests compile.
    while [ ! -e "$work/compiled" ]; do sleep 1; done
    status=0
    VBUILD_TEST_CACHE="$work/lab-cache" LAB_TIMEOUT=1500 timeout --foreground 4500 \
        sh tests/lab.sh doctor machine devices build >"$work/lab.log" 2>&1 || status=$?
    echo "$status" >"$work/lab.status"
    exit 0
fi

if [ "$level" = image ]; then
    cd "$work/image"
    step "a Debian image, from the README's first command"
    as_user sh "$work/bin/first-image.sh"
    ls -ls
    ! command -v qemu-img >/dev/null || qemu-img check debian.qcow2
    step "its login prompt"
    as_user "$work/bin/vbuild" boot --expect "login:" --timeout 600 debian.qcow2
    step "the image is whole"
    exit 0
fi

if [ "$level" = guest ]; then
    first_guest
    lints
    unit_tests
    exit 0
fi

# What the image and the lab do is told at the end.
rm -f "$work/compiled" "$work/first.status" "$work/image.status" "$work/lab.status"
VBUILD_TEST_DIR="$work" timeout 10800 sh "$here/tests/all.sh" beside &
beside=$!
trap 'kill "$beside" 2>/dev/null || true' EXIT

lints
unit_tests

# Without it there is nothing to boot.
while [ ! -s "$work/first.status" ] && kill -0 "$beside"; do sleep 1; done
cat "$work/first.log"
[ "$(cat "$work/first.status")" -eq 0 ]

# The caches of guests' tests and of the lab are copies, because those run as whoever called
# this.
for cache in tests/cache lab-cache; do
    mkdir -p "$work/$cache"
    cp -a "$work/home/.cache/vbuild/appliance" "$work/$cache/"
    [ "$(id -u)" -ne 0 ] || chown -R root:root "$work/$cache"
done
touch "$work/compiled"

step "tests that boot guests"
VBUILD_TEST_CACHE="$work/tests/cache" timeout 4200 cargo test --release --locked --workspace \
    --test boots --test elements -- --nocapture --test-threads=1

step "layer folders"
# In a directory of its own, since the image is still being made in that of this script.
VBUILD_TEST_CACHE="$work/tests/cache" timeout 1200 env -u VBUILD_TEST_DIR \
    cargo test --release --locked --workspace --test recipes -- --ignored --nocapture layers::

# The same rounds each time, fourteen kinds of faults; other numbers draw others.
step "builds that are disturbed"
VBUILD="$work/bin/vbuild" \
    VBUILD_TEST_CACHE="$work/tests/cache" timeout 1500 sh tests/faults.sh 20 20081

step "the image and the KVM lab, which ran beside"
wait "$beside"
trap - EXIT
for name in image lab; do
    cat "$work/$name.log"
    [ "$(cat "$work/$name.status")" -eq 0 ]
done
rm -rf "$work/tests" "$work/lab-cache"

step "done"
[ -n "${VBUILD_TEST_DIR:-}" ] || rm -rf "$work"
