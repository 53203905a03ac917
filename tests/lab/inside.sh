#!/bin/sh
# Level 1 of the KVM lab; see tests/lab.sh, which starts it.
set -eu
cd /helper
suites=$*
here=$(cat here)
# The tests know their elements by the path at which they were built.
mkdir -p "$here" && ln -s /helper/tests "$here/tests"
HOME=/helper/home TMPDIR=/helper/tmp
VBUILD_AGENT=/helper/agent
VBUILD_TEST_CACHE=/helper/cache
VBUILD_TEST_ACCEL=kvm
export HOME TMPDIR VBUILD_AGENT VBUILD_TEST_CACHE VBUILD_TEST_ACCEL
mkdir -p "$HOME" "$TMPDIR"
vbuild=/helper/target/release/vbuild
modprobe kvm-amd

# A sign of life for tests/lab.sh: the kernel of level 1 may stand still.
while sleep 20; do echo "lab: beat"; done &
beat=$!
trap 'kill "$beat"' EXIT

began=$(date +%s)
step() { printf '\n=== lab: %s (%s s)\n' "$1" "$(($(date +%s) - began))"; }
# The ordinary user of these tests may use KVM and reach the folders.
recipes() {
    chmod 666 /dev/kvm
    chmod a+rx /helper "$TMPDIR"
    ./target/release/deps/recipes --ignored --nocapture --test-threads=1 "$@"
}
boots() { ./target/release/deps/boots --nocapture --test-threads=1 "$@"; }

for suite in $suites; do
    step "$suite"
    case $suite in
    doctor)
        "$vbuild" doctor --cache-dir /helper/cache | tee doctor.txt
        grep -q -- '--accel auto: KVM, which passed every check' doctor.txt
        # QEMU is not there, so that what runs is the own VMM or nothing.
        ! command -v qemu-system-x86_64
        for accel in auto kvm; do
            test "$("$vbuild" exec --accel $accel --cache-dir /helper/cache -m 512 --no-network -- cat /proc/1/comm)"
        done
        ;;
    machine)
        # shellcheck disable=SC2086
        boots ${LAB_FILTER:-machine:: hostile:: session:: warm::}
        ;;
    devices)
        # shellcheck disable=SC2086
        boots ${LAB_FILTER:-disks:: streams::}
        ;;
    cache)
        # shellcheck disable=SC2086
        boots ${LAB_FILTER:-cache::only_what_changed}
        ;;
    layers) recipes layers:: ;;
    b9)
        # Fixups run where the working folder is, which is /helper in no machine of level 2.
        mkdir -p /srv/b9 && mount --bind "$TMPDIR" /srv/b9
        TMPDIR=/srv/b9 recipes b9::samples
        ;;
    build)
        rm -rf built && mkdir built
        sh build.sh "$vbuild" kvm /helper/cache /helper/tests/elements built
        # Times differ; nothing else may.
        python3 same.py built/image.tar reference/image.tar
        for side in built reference; do
            e2fsck -fn "$side/image.raw" >/dev/null 2>&1
            rm -rf "$side/root" && mkdir "$side/root"
            debugfs -R "rdump / $side/root" "$side/image.raw" >/dev/null 2>&1
            tar --numeric-owner -C "$side/root" -cf "$side/root.tar" .
        done
        python3 same.py built/root.tar reference/root.tar
        ;;
    bench) sh bench.sh ;;
    *)
        echo "lab: there is no suite \`$suite'" >&2
        exit 2
        ;;
    esac
done
step "done"
