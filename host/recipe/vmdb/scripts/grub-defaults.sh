# Sets what GRUB reads when it writes its menu.
# Arguments: root of the image, kernel parameters, timeout, serial or nothing.
set -eu
file=$1/etc/default/grub
sed -i '/^GRUB_CMDLINE_LINUX_DEFAULT/d' "$file"
{
    printf 'GRUB_CMDLINE_LINUX_DEFAULT="%s"\n' "$2"
    printf 'GRUB_ENABLE_CRYPTODISK=y\n'
    printf 'GRUB_TIMEOUT=%s\n' "$3"
    if [ "${4:-}" = serial ]; then
        printf 'GRUB_TERMINAL=serial\n'
        printf 'GRUB_SERIAL_COMMAND="serial --speed=115200 --unit=0 --word=8 --parity=no --stop=1"\n'
    fi
} >>"$file"
