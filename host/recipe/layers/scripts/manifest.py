"""Describes a tree and its packages, for comparing two images.

usage: manifest.py ROOT OUTPUT

One line for each file: type, mode, owner, group, size, digest or target, path,
separated by tabs; the path is last and escaped. Then one line for each package.
"""
import hashlib
import os
import stat
import subprocess
import sys

ROOT, OUTPUT = sys.argv[1:3]
SKIPPED = {"/proc", "/sys", "/dev", "/run", "/tmp"}


def escape(name):
    text = os.fsdecode(name)
    return "".join(
        c if c.isprintable() and c != "\\" else
        "".join("\\x%02x" % b for b in os.fsencode(c)) for c in text)


def digest(path):
    sum = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            sum.update(piece)
    return sum.hexdigest()


def lines(top, place):
    for name in sorted(os.listdir(top)):
        path, seen = os.path.join(top, name), place + b"/" + name
        status = os.lstat(path)
        kind, detail, size = "?", "-", 0
        if stat.S_ISLNK(status.st_mode):
            kind, detail = "l", escape(os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            kind = "d"
        elif stat.S_ISREG(status.st_mode):
            kind, size = "f", status.st_size
            detail = digest(path)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            kind = "c" if stat.S_ISCHR(status.st_mode) else "b"
            detail = "%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
        elif stat.S_ISFIFO(status.st_mode):
            kind = "p"
        elif stat.S_ISSOCK(status.st_mode):
            kind = "s"
        mode = "%04o" % stat.S_IMODE(status.st_mode)
        yield "\t".join([kind, mode, str(status.st_uid), str(status.st_gid), str(size),
                         detail, escape(seen)])
        if kind == "d" and os.fsdecode(seen) not in SKIPPED and seen != b"/lost+found":
            yield from lines(path, seen)


def dpkg():
    path = os.path.join(ROOT, "var/lib/dpkg/status")
    if not os.path.isfile(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for paragraph in file.read().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in paragraph.split("\n")
                          if ": " in line and not line.startswith(" "))
            if fields.get("Status", "").endswith(" installed"):
                yield fields["Package"], fields.get("Architecture", ""), fields.get("Version", "")


def rpm():
    places = ["var/lib/rpm", "usr/lib/sysimage/rpm"]
    if not any(os.path.isdir(os.path.join(ROOT, place)) for place in places):
        return
    form = "%{NAME}\\t%{ARCH}\\t%{EVR}\\n"
    said = subprocess.run(["rpm", "--root", ROOT, "-qa", "--qf", form], capture_output=True, check=False)
    for line in said.stdout.decode(errors="replace").splitlines():
        if line.count("\t") == 2:
            yield tuple(line.split("\t"))


def apk():
    path = os.path.join(ROOT, "lib/apk/db/installed")
    if not os.path.isfile(path):
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for paragraph in file.read().split("\n\n"):
            fields = dict(line.split(":", 1) for line in paragraph.split("\n") if ":" in line)
            if "P" in fields:
                yield fields["P"], fields.get("A", ""), fields.get("V", "")


with open(OUTPUT, "w", encoding="utf-8", errors="surrogateescape") as out:
    for line in lines(os.fsencode(ROOT), b""):
        out.write(line + "\n")
    for name, arch, version in sorted([*dpkg(), *rpm(), *apk()]):
        out.write("package\t%s\t%s\t%s\n" % (name, arch, version))
    out.write("end\n")
