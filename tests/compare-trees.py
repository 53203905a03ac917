#!/usr/bin/env python3
"""Compares two archives of file trees of Debian: packages, files with kind, mode,
owner, attributes and content. Prints what differs, most telling first."""

import hashlib
import re
import sys
import tarfile

# Files whose content differs between any two builds of one system.
VOLATILE = re.compile(
    r"^(var/lib/dpkg/(status|available|lock|info/.*)(-old)?|var/log/|var/cache/ldconfig/"
    r"|var/cache/debconf/|etc/dib-manifests/|var/lib/apt/extended_states"
    r"|boot/initrd|var/lib/systemd/(random-seed|catalog)|etc/ld\.so\.cache$"
    r"|.*/__pycache__/|etc/shadow|etc/\.pwd\.lock)"
)
SHOWN = 60


def members(path):
    tree, texts = {}, {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("./").rstrip("/")
            kind = "hard link" if member.islnk() else member.type.decode()
            xattrs = {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr")}
            content = None
            if member.isreg():
                data = archive.extractfile(member).read()
                content = hashlib.sha256(data).hexdigest()
                if name in INTERESTING:
                    texts[name] = data.decode(errors="replace")
            tree[name] = (
                kind,
                oct(member.mode),
                f"{member.uid}:{member.gid}",
                (member.devmajor, member.devminor) if member.ischr() or member.isblk() else None,
                member.linkname.removeprefix("./") or None,
                tuple(sorted(xattrs.items())),
                content,
            )
    # Of several names of one file, archives may call any the first.
    for name, entry in list(tree.items()):
        if entry[0] == "hard link" and entry[4] in tree:
            tree[name] = tree[entry[4]]
    return tree, texts


INTERESTING = ["var/lib/dpkg/status", "etc/fstab", "boot/grub/grub.cfg", "etc/hostname",
               "etc/machine-id", "etc/resolv.conf", "etc/passwd", "etc/group"]


def packages(status):
    found = {}
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", paragraph, re.M))
        if fields.get("Status", "").endswith(" installed"):
            found[fields["Package"]] = fields.get("Version")
    return found


def show(title, lines):
    print(f"\n## {title}: {len(lines)}\n")
    for line in lines[:SHOWN]:
        print(f"    {line}")
    if len(lines) > SHOWN:
        print(f"    … and {len(lines) - SHOWN} more")


def main():
    (one, one_texts), (two, two_texts) = members(sys.argv[1]), members(sys.argv[2])
    print(f"{len(one)} files of {sys.argv[1]}, {len(two)} of {sys.argv[2]}")
    a, b = packages(one_texts["var/lib/dpkg/status"]), packages(two_texts["var/lib/dpkg/status"])
    print(f"{len(a)} and {len(b)} packages")
    show("packages", [f"{p}: {a.get(p)} | {b.get(p)}" for p in sorted(a | b) if a.get(p) != b.get(p)])
    for name in INTERESTING[1:]:
        if one_texts.get(name) != two_texts.get(name):
            show(name, [f"- {l}" for l in (one_texts.get(name) or "none").splitlines()]
                 + [f"+ {l}" for l in (two_texts.get(name) or "none").splitlines()])
    show("only in the first", sorted(one.keys() - two.keys()))
    show("only in the second", sorted(two.keys() - one.keys()))
    both = sorted(one.keys() & two.keys())
    names = ["kind", "mode", "owner", "device", "target", "attributes"]
    for index, what in enumerate(names):
        show(what, [f"{n}: {one[n][index]} | {two[n][index]}" for n in both if one[n][index] != two[n][index]])
    show("content", [n for n in both if one[n][6] != two[n][6] and not VOLATILE.match(n)])
    show("content that is never the same",
         [n for n in both if one[n][6] != two[n][6] and VOLATILE.match(n)])


main()
