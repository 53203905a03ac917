# Makes the bind mounts that save-mounts printed, where they are missing.
# Argument: its output.
set -eu
tab=$(printf '\t')
printf '%s\n' "$1" | while IFS="$tab" read -r source target; do
    [ -n "$target" ] || continue
    # mountinfo writes blanks and the like as octal escapes.
    source=$(printf '%b' "$source")
    target=$(printf '%b' "$target")
    if mountpoint -q "$target"; then
        continue
    fi
    # A new helper drive does not have the caches of the old one.
    [ -e "$source" ] || mkdir -p "$source"
    [ -e "$target" ] || mkdir -p "$target"
    mount --bind "$source" "$target"
done
