# Reports what takes how much space in a tree. Arguments: the tree, and `full`
# for everything instead of what has 10 MiB or more.
set -eu
usage=$(mktemp)
trap 'rm -f "$usage"' EXIT
du -a -x "$1" | sort -nr >"$usage"
if [ "${2:-}" = full ]; then
    title='Image size report'
    least=0
else
    title='Image size report (files > 10MiB)'
    least=10240
fi
line=$(printf '%s' "$title" | tr -c '' '=')
printf '%s\n%s\n%s\n' "$line" "$title" "$line"
awk -v least="$least" '$1 >= least' "$usage" |
    numfmt --to=iec-i --padding=7 --suffix=B --field=1 --from-unit=1024
printf '\n===== end image size report =====\n\n'
