#!/usr/bin/env python3
"""Compares two archives of one tree: names, kinds, modes, owners, links, devices,
extended attributes and contents; times may differ. Fails and says what differs."""

import hashlib
import sys
import tarfile

# Notes of a script about its files, with their times and the blocks that they
# happen to take: the files themselves are compared.
OWN = {"probe-records/attributes", "probe-records/keepsakes"}


def tree(path):
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("./").rstrip("/")
            data = archive.extractfile(member).read() if member.isreg() else b""
            found[name] = (
                member.type,
                oct(member.mode),
                (member.uid, member.gid),
                member.linkname.removeprefix("./"),
                (member.devmajor, member.devminor) if member.ischr() or member.isblk() else None,
                sorted(pair for pair in member.pax_headers.items() if pair[0].startswith("SCHILY")),
                hashlib.sha256(data).hexdigest(),
            )
    return found


one, two = tree(sys.argv[1]), tree(sys.argv[2])
differ = [name for name in sorted(one.keys() | two.keys())
          if one.get(name) != two.get(name) and name not in OWN]
for name in differ:
    print(f"{name}: {one.get(name)} and {two.get(name)}", file=sys.stderr)
if differ or len(one) < 10:
    sys.exit(f"{len(differ)} of {len(one)} files differ")
print(f"the {len(one)} files of {sys.argv[1]} and {sys.argv[2]} are the same")
