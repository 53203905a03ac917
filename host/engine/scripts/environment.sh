set -ue -o pipefail
exec 3>&1 1>&2
trap 'printf %s "${_vbuild_file:-}" >&3' EXIT
_vbuild_before=("$(umask)" "$(pwd)" "$(ulimit -S -a)" "$(ulimit -H -a)")
for _vbuild_file in "$@"; do
    # shellcheck disable=SC1090
    source "$_vbuild_file"
done
set +eux
trap - EXIT
_vbuild_after=("$(umask)" "$(pwd)" "$(ulimit -S -a)" "$(ulimit -H -a)")
unset _vbuild_prelude
if [ "${_vbuild_before[*]}" != "${_vbuild_after[*]}" ]; then
    _vbuild_changed=
    for _vbuild_kind in S H; do
        [ "$_vbuild_kind" = S ] && _vbuild_at=2 || _vbuild_at=3
        while IFS= read -r _vbuild_line; do
            [[ $'\n'${_vbuild_before[$_vbuild_at]}$'\n' == *$'\n'$_vbuild_line$'\n'* ]] && continue
            [[ $_vbuild_line =~ (-[a-z])\)\ +([^ ]+)$ ]] || continue
            _vbuild_changed+="ulimit -$_vbuild_kind ${BASH_REMATCH[1]} ${BASH_REMATCH[2]} 2>/dev/null; "
        done <<< "${_vbuild_after[$_vbuild_at]}"
    done
    # Twice: a soft limit may need a higher hard one first, a hard one a lower soft one.
    export _vbuild_prelude="umask $(umask); cd -- $(printf %q "$(pwd)"); $_vbuild_changed$_vbuild_changed"
fi
unset _vbuild_file _vbuild_before _vbuild_after _vbuild_changed _vbuild_kind _vbuild_at _vbuild_line
exec env -0 >&3
