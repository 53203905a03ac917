#!/usr/bin/env python3
"""Builds the cases of kind `result` of the vectors and looks at what comes out.

usage: results.py VECTORS PROGRAM [ARGUMENT]...
       VECTORS is host/recipe/b9/tests/vectors/images.json; PROGRAM with its ARGUMENTs is
       run as `PROGRAM ARGUMENT... b9 build -f FILE`, in a folder of its own for each case.
Needs qemu-img, and mkfs.ext4 and dumpe2fs of e2fsprogs. Ends with 1 when a case differs.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

SECTOR = 512


def disk(path):
    """The disk of the cases: an MBR with two partitions, ext4 `p2` on the second."""
    with open(path, "wb") as file:
        file.truncate(64 << 20)
        for index, (start, count) in enumerate([(2048, 40960), (45056, 81920)]):
            file.seek(446 + 16 * index)
            entry = bytes([0, 0, 0, 0, 0x83, 0, 0, 0])
            file.write(entry + start.to_bytes(4, "little") + count.to_bytes(4, "little"))
        file.seek(510)
        file.write(b"\x55\xaa")
    part = path + ".part"
    with open(part, "wb") as file:
        file.truncate(81920 * SECTOR)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "p2", part], check=True)
    with open(part, "rb") as source, open(path, "r+b") as target:
        target.seek(45056 * SECTOR)
        target.write(source.read())
    os.remove(part)


def look(path):
    """What an image is, in the words of the vectors."""
    told = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path]))
    found = {"format": told["format"], "virtual_size": told["virtual-size"]}
    specific = told.get("format-specific", {}).get("data", {})
    if told["format"] == "qcow2":
        found |= {"compat": specific["compat"], "lazy_refcounts": specific["lazy-refcounts"]}
    if told["format"] == "vmdk":
        found["vmdk"] = specific["create-type"]
    raw = path
    if told["format"] != "raw":
        raw = path + ".look"
        subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    header = subprocess.run(["dumpe2fs", "-h", raw], capture_output=True, text=True)
    fields = dict(re.findall(r"^([^:\n]+):\s*(.*)$", header.stdout, re.MULTILINE))
    if fields:
        found |= {
            "fs_bytes": int(fields["Block count"]) * int(fields["Block size"]),
            "fs_label": fields["Filesystem volume name"],
            "fs_state": fields["Filesystem state"],
        }
    return found


def differs(case, expected, found):
    """Sizes that depend on the version of e2fsprogs are held against each other only."""
    if "approx" not in case:
        return expected != found
    sizes = ("virtual_size", "fs_bytes")
    rest = lambda it: {key: value for key, value in it.items() if key not in sizes}
    plus = 3 << 20 if "add 3 MB" in case["name"] else 0
    return (
        rest(expected) != rest(found)
        or not (8 << 20) < found["virtual_size"] < (32 << 20)
        or found["virtual_size"] - found["fs_bytes"] > plus
    )


def run(case, program):
    """None when the case comes out as it must."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("B9_RESULTS_DIR")) as folder:
        os.chmod(folder, 0o777)
        for name in case["input"]["files"]:
            disk(os.path.join(folder, name))
        with open(os.path.join(folder, "a.b9"), "w") as file:
            file.write(case["input"]["b9"])
        with open(os.path.join(folder, "b9.conf"), "w") as file:
            file.write(
                "[global]\nverbosity: Nothing\nlog_file: Nothing\nbuild_dir_root: Nothing\n"
                "keep_temp_dirs: False\nunique_build_dirs: True\nrepository: Nothing\n"
                "repository_cache: Nothing\n"
            )
        command = [*program, "b9", "-c", "b9.conf", "build", "-f", "a.b9"]
        built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        outputs = [name for name in os.listdir(folder) if name.startswith("o.")]
        if case.get("fix", "").startswith("error"):
            if built.returncode == 1 and not outputs and built.stderr:
                return None
            return f"status {built.returncode}, outputs {outputs}\n{built.stderr}"
        if built.returncode != 0:
            return f"status {built.returncode}\n{built.stderr}"
        for name, expected in case["expect"]["outputs"].items():
            found = look(os.path.join(folder, name))
            if differs(case, expected, found):
                return f"{name}: {found} instead of {expected}"
        return None


def main():
    vectors, *program = sys.argv[1:]
    with open(vectors) as file:
        cases = [case for case in json.load(file) if case["kind"] == "result"]
    wrong = 0
    for case in cases:
        reason = run(case, program)
        print(f"{'ok    ' if reason is None else 'FAILED'} {case['name']}", flush=True)
        if reason is not None:
            wrong += 1
            print("    " + reason.replace("\n", "\n    "), flush=True)
    print(f"{len(cases) - wrong} of {len(cases)} cases")
    sys.exit(1 if wrong else 0)


main()
