# Teaches the kernel to run programs of another processor, once per boot.
# Argument: the architecture as Debian calls it.
set -eu
at=/proc/sys/fs/binfmt_misc
modprobe binfmt_misc 2>/dev/null || true
[ -e "$at/register" ] || mount -t binfmt_misc binfmt_misc "$at"
elf='\x7fELF'
rest='\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00'
big='\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
bigmask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff'
case $1 in
    arm64) name=aarch64 magic="$elf\\x02\\x01$rest\\xb7\\x00" ;;
    armhf | armel) name=arm magic="$elf\\x01\\x01$rest\\x28\\x00" ;;
    riscv64) name=riscv64 magic="$elf\\x02\\x01$rest\\xf3\\x00" ;;
    ppc64el) name=ppc64le magic="$elf\\x02\\x01$rest\\x15\\x00" ;;
    mips64el) name=mips64el magic="$elf\\x02\\x01$rest\\x08\\x00" ;;
    mipsel) name=mipsel magic="$elf\\x01\\x01$rest\\x08\\x00" ;;
    ppc64) name=ppc64 magic="$elf\\x02\\x02$big\\x00\\x15" mask=$bigmask ;;
    powerpc) name=ppc magic="$elf\\x01\\x02$big\\x00\\x14" mask=$bigmask ;;
    s390x) name=s390x magic="$elf\\x02\\x02$big\\x00\\x16" mask=$bigmask ;;
    *)
        echo "no emulator is known for the architecture $1" >&2
        exit 1
        ;;
esac
if [ ! -e "$at/qemu-$name" ]; then
    # With F the interpreter is opened now, so that it works in any root.
    printf '%s\n' ":qemu-$name:M::$magic:$mask:/usr/bin/qemu-$name-static:OCF" >"$at/register"
fi
