#!/bin/sh
# Files of B9, built for real as an ordinary user.
#
#   samples   the eight of tests/b9; what they leave is looked at as tests/b9/README.md says
#   results   the cases of kind `result` of the vectors, by tests/b9/results.py
#   login     sample 04's script on the root filesystem of a Debian image, which then boots
#             to a login with the kernel in it; VBUILD_TEST_DEBIAN names the image, as
#             tests/first-image.sh writes it
#
# usage: tests/b9.sh [samples|results|login]...      (default: samples and results)
# VBUILD names the program (default: the release build), VBUILD_TEST_DIR a folder that is
# kept (default: a new one, removed at the end), VBUILD_TEST_HOME a home with an appliance.
# Needs qemu-img, mkfs.ext4, dumpe2fs, debugfs and python3; results.py needs no root. Without
# KVM all of it takes about half an hour.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
[ $# -gt 0 ] || set -- samples results
program=${VBUILD:-${CARGO_TARGET_DIR:-$here/target}/release/vbuild}
. "$here/tests/ground.sh"
ground b9 "$program"
umask 022

is() { # what, expected, found
    [ "$2" = "$3" ] || fail "$1: \`$3\` instead of \`$2\`"
    echo "ok: $1"
}
same() { # what, expected file, found file
    cmp "$2" "$3" || fail "$1"
    echo "ok: $1"
}
label() { dumpe2fs -h "$1" 2>/dev/null | sed -n 's/^Filesystem volume name: *//p'; }
content() { debugfs -R "cat $2" "$1" 2>/dev/null; }
raw() { qemu-img convert -O raw "$1" "$1.looked-at" && echo "$1.looked-at"; }
member() { qemu-img info --output=json "$1" | python3 -c "import json,sys; print(json.load(sys.stdin)$2)"; }

# The bare ext4 with a small Debian is the root of vbuild's own appliance.
inputs() {
    vbuild exec --no-network -- true
    cache=${VBUILD_TEST_HOME:-$work/home}/.cache/vbuild
    root=$(ls -t "$cache"/appliance/*/root.img 2>/dev/null | head -n 1)
    [ -n "$root" ] || fail "the appliance has no root in $cache"
    mkdir -p in
    cp --sparse=always "$root" in/base.raw
    truncate -s 200M in/disk.raw
    for part in "2048 131072 first" "133120 262144 second"; do
        # shellcheck disable=SC2086
        set -- $part
        truncate -s $(($2 * 512)) in/part
        mkfs.ext4 -q -F -L "$3" in/part
        dd if=in/part of=in/disk.raw bs=512 seek="$1" conv=notrunc status=none
        rm in/part
    done
    python3 - in/disk.raw <<'END'
import sys
with open(sys.argv[1], "r+b") as disk:
    for index, (start, count) in enumerate([(2048, 131072), (133120, 262144)]):
        disk.seek(446 + 16 * index)
        disk.write(bytes([0, 0, 0, 0, 0x83, 0, 0, 0]) + start.to_bytes(4, "little") + count.to_bytes(4, "little"))
    disk.seek(510)
    disk.write(b"\x55\xaa")
END
    qemu-img convert -O qcow2 in/disk.raw in/disk.qcow2
    rm in/disk.raw
    chmod -R a+rX in
}

samples() {
    cd "$work/out"
    cp -R "$here"/tests/b9/. .
    chmod -R a+rX .
    inputs
    for sample in 01-empty-disk 02-seed 03-merge-config 04-install 05-partition \
        06-share-base 06-share-base 06-share-base 08-fixup-transient; do
        step "$sample"
        vbuild b9 build -f "$sample.b9" ${VBUILD_ARGS:-}
    done
    step 07-matrix
    vbuild b9 build -f 07-matrix.b9 ${VBUILD_ARGS:-} -- r42
    step "once more, with nothing changed"
    began=$(date +%s)
    vbuild b9 build -f 07-matrix.b9 ${VBUILD_ARGS:-} -- r42
    echo "sample 07 again: $(($(date +%s) - began)) s"

    is "01: format" qcow2 "$(member out/01/blank.qcow2 "['format']")"
    is "01: size" 100663296 "$(member out/01/blank.qcow2 "['virtual-size']")"
    is "01: label" blank "$(label "$(raw out/01/blank.qcow2)")"
    for name in meta-data network-config user-data; do
        same "02: $name" "expected/02/$name" "out/02/web-01.lab.example.test/$name"
    done
    for env in test prod; do
        for name in app.yaml sys.config logo.b64; do
            same "03: $env/$name" "expected/03/$env/$name" "out/03/$env/$name"
        done
    done
    is "04: env" "home=/root user=root" "$(cat out/04/report/env.txt)"
    is "04: uid" 0 "$(cat out/04/report/uid.txt)"
    [ "$(cat out/04/report/mounts.txt)" -ge 1 ] || fail "04: mounts"
    is "04: issue" "demo image" "$(content "$(raw out/04/root.qcow2)" /etc/issue)"
    same "04: logo" payload/logo.bin "$(content "$(raw out/04/data.vmdk)" /logo.bin > "$work/logo" && echo "$work/logo")"
    is "05: size" 67108864 "$(stat -c %s out/05/p1.raw)"
    is "05: label" first "$(label out/05/p1.raw)"
    is "05: second label" second "$(label "$(raw out/05/p2.qcow2)")"
    is "06: revisions" 2 "$(vbuild b9 list | grep -c '^demo-base ')"
    for vm in db-qa web-qa db-prod web-prod; do
        is "07: $vm size" $((1200 << 20)) "$(member "out/07/$vm.qcow2" "['virtual-size']")"
        same "07: $vm logo" payload/logo.bin "$(content "out/07/$vm-data.raw" /logo.bin > "$work/logo" && echo "$work/logo")"
        image=$(raw "out/07/$vm.qcow2")
        content "$image" /etc/demo/seed.yaml > "$work/seed"
        same "07: $vm seed" "expected/07/$vm.user-data" "$work/seed"
        rm "$image"
    done
    is "07: vm" "db-qa 10.9.0.11 small r42" "$(content "$(raw out/07/db-qa.qcow2)" /etc/demo/vm)"
    is "08: report" "line-1 line-2 line-3" "$(echo $(cat out/08/report.txt))"
    is "08: size" 50331648 "$(stat -c %s out/08/stamped.raw)"
    is "08: label" fixed "$(label out/08/stamped.raw)"
}

results() {
    step "the vectors"
    cd "$work"
    mkdir -p results
    chmod a+rwx results
    cp "$here/tests/b9/results.py" "$here/host/recipe/b9/tests/vectors/images.json" .
    chmod a+r results.py images.json
    $user env -i HOME="${VBUILD_TEST_HOME:-$work/home}" PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
        B9_RESULTS_DIR="$work/results" ${VBUILD_AGENT:+VBUILD_AGENT="$VBUILD_AGENT"} \
        python3 results.py images.json "$work/bin/vbuild"
}

# B9 makes images of one filesystem, which no firmware starts: the kernel comes out of it.
login() {
    debian=${VBUILD_TEST_DEBIAN:?names no Debian image}
    cd "$work/out"
    cp -R "$here"/tests/b9/. .
    mkdir -p in
    cp --sparse=always "$debian" in/debian.qcow2
    chmod -R a+rX .
    sed -e 's,(Image "in/base.raw" Raw Ext4) NoPT (Resize (ImageSize 1 GB)),(Image "in/debian.qcow2" QCow2 Ext4) (Partition 1) (Resize (ImageSize 4 GB)),' \
        -e 's,out/04,out/login,g' 04-install.b9 > login.b9
    grep -q debian.qcow2 login.b9 || fail "sample 04 has another base now"
    step "sample 04 on a Debian image"
    vbuild b9 build -f login.b9 ${VBUILD_ARGS:-}
    image=$(raw out/login/root.qcow2)
    for name in vmlinuz initrd.img; do
        file=$(debugfs -R "ls -p /boot" "$image" 2>/dev/null | tr '/' '\n' | grep "^$name-" | tail -n 1)
        [ -n "$file" ] || fail "the image has no $name"
        content "$image" "/boot/$file" > "$work/$name"
    done
    step "its login"
    timeout 900 qemu-system-x86_64 -machine q35 -m 1024 -nographic -no-reboot -monitor none \
        -kernel "$work/vmlinuz" -initrd "$work/initrd.img" \
        -append "root=/dev/vda rw console=ttyS0" -snapshot \
        -drive "file=$image,format=raw,if=virtio" > "$work/console" 2>&1 < /dev/null &
    machine=$!
    until grep -q "login:" "$work/console"; do
        kill -0 "$machine" 2>/dev/null || fail "the machine has ended: $(tail -n 3 "$work/console")"
        sleep 2
    done
    kill "$machine"
    echo "ok: login"
}

for what; do
    case $what in
        samples)
            samples
            ;;
        results)
            results
            ;;
        login)
            login
            ;;
        *) fail "there is no \`$what\`" ;;
    esac
done
