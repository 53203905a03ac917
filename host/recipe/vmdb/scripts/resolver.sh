# Runs a command while the image has a resolver that works here, and gives the
# image its own back afterwards. What the command itself wrote there is kept.
# Arguments: root of the image, command.
set -eu
root=$1
shift
file=$root/etc/resolv.conf
own=$(mktemp -d)
saved=no
if [ -d "$root/etc" ]; then
    saved=nothing
    if [ -e "$file" ] || [ -L "$file" ]; then
        mv -T -- "$file" "$own/resolv.conf"
        saved=file
    fi
    cat /etc/resolv.conf >"$file"
fi
status=0
"$@" || status=$?
if [ "$saved" != no ] && [ -f "$file" ] && [ ! -L "$file" ] && cmp -s /etc/resolv.conf "$file"; then
    rm -f -- "$file"
    if [ "$saved" = file ]; then
        mv -T -- "$own/resolv.conf" "$file"
    fi
fi
rm -rf -- "$own"
exit "$status"
