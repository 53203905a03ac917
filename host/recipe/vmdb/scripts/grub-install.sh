# Installs GRUB from inside of the image. The copy on the removable path is
# what firmware without saved variables starts.
# Arguments: GRUB's target, the device.
set -eu
removable=
case $1 in
    *-efi)
        if grub-install --help | grep -q -e --force-extra-removable; then
            removable=--force-extra-removable
        fi
        ;;
esac
exec grub-install --target="$1" --no-nvram $removable --no-floppy \
    --modules='part_msdos part_gpt' "$2"
