#!/bin/sh
# The figures of the KVM lab, in level 1: the own VMM beside QEMU with KVM.
set -eu
qemu-system-x86_64 --version | head -1
exec ./target/release/deps/vmm
