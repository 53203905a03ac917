# Ends the processes that use files below $1, and prints number and name of each.
users() {
    find /proc/[0-9]*/root /proc/[0-9]*/cwd /proc/[0-9]*/exe /proc/[0-9]*/fd -maxdepth 1 \
        \( -lname "$1" -o -lname "$1/*" \) 2>/dev/null |
        while IFS=/ read -r _ _ pid _; do
            # Not PID 1, the agent or this shell, which may look at files there.
            case $pid in 1 | "$PPID" | $$) ;; *) echo "$pid" ;; esac
        done | sort -un
}
left=$(users "$1")
[ -n "$left" ] || exit 0
for pid in $left; do
    read -r name 2>/dev/null < "/proc/$pid/comm" || name=unknown
    echo "$pid $name"
done
kill -TERM $left 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -n "$(users "$1")" ] || exit 0
    sleep 0.2
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    left=$(users "$1")
    [ -n "$left" ] || exit 0
    kill -KILL $left 2>/dev/null
    sleep 0.2
done
