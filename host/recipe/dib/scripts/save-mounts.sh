# Prints the bind mounts below a tree whose source is in the build directory or
# on the helper drive, as `source TAB target` lines: elements mount their caches
# into the tree, and a stage that is started on its own needs them again.
# Argument: the tree.
set -eu
awk -v root="$1" '
function below(path, directory) {
    return directory == "/" || path == directory || index(path, directory "/") == 1
}
{ device[NR] = $3; inner[NR] = $4; at[NR] = $5 }
END {
    for (n = 1; n <= NR; n++) {
        if (at[n] == root || !below(at[n], root)) continue
        if (below(at[n], root "/proc") || below(at[n], root "/dev")) continue
        if (below(at[n], root "/sys") || below(at[n], root "/tmp/in_target.d")) continue
        for (m = 1; m <= NR; m++) {
            if (device[m] != device[n] || below(at[m], root)) continue
            if (!below(inner[n], inner[m])) continue
            rest = substr(inner[n], inner[m] == "/" ? 1 : length(inner[m]) + 1)
            source = (at[m] == "/" ? "" : at[m]) rest
            if (below(source, "/helper") || below(source, "/build")) {
                print source "\t" at[n]
                break
            }
        }
    }
}' /proc/self/mountinfo
