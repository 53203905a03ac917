#!/usr/bin/env python3
"""Sets the times of a FAT filesystem that is not mounted.

usage: fat-times.py DEVICE EPOCH

Every entry of every directory, removed ones too, gets EPOCH (seconds since 1970)
as its times of creation and access. A time of change that is later becomes EPOCH.
"""
import struct
import sys
import time

ENTRY = 32
# An entry that holds a part of a long name has no times.
LONG_NAME = 0x0F
DIRECTORY, LABEL = 0x10, 0x08
# A chain that is longer goes in circles: FAT32 has no more clusters.
CLUSTERS_MAX = 1 << 28


def dos(epoch):
    """Date and time as FAT has them: from 1980 on, in steps of two seconds."""
    at = time.gmtime(epoch)
    if at.tm_year < 1980:
        return 0x21, 0
    date = (at.tm_year - 1980) << 9 | at.tm_mon << 5 | at.tm_mday
    return date, at.tm_hour << 11 | at.tm_min << 5 | at.tm_sec // 2


class Fat:
    """The filesystem on an open device."""

    def __init__(self, device):
        self.device = device
        boot = self.read(0, 512)
        sector, per_cluster, reserved, fats, roots = struct.unpack_from("<HBHBH", boot, 11)
        sectors = struct.unpack_from("<H", boot, 19)[0] or struct.unpack_from("<I", boot, 32)[0]
        fat_sectors = struct.unpack_from("<H", boot, 22)[0] or struct.unpack_from("<I", boot, 36)[0]
        if sector not in (512, 1024, 2048, 4096) or not per_cluster or not fats:
            sys.exit(f"{device.name} holds no FAT filesystem")
        self.cluster_bytes = sector * per_cluster
        root_at = (reserved + fats * fat_sectors) * sector
        root_sectors = (roots * ENTRY + sector - 1) // sector
        self.data_at = root_at + root_sectors * sector
        clusters = (sectors * sector - self.data_at) // self.cluster_bytes
        self.bits = 12 if clusters < 4085 else 16 if clusters < 65525 else 32
        self.table = self.read(reserved * sector, fat_sectors * sector)
        if self.bits == 32:
            self.root = list(self.chain(struct.unpack_from("<I", boot, 44)[0]))
        else:
            self.root = [(root_at, roots * ENTRY)]

    def read(self, at, count):
        self.device.seek(at)
        return self.device.read(count)

    def next(self, cluster):
        """The cluster behind one, or none."""
        if self.bits == 32:
            value = struct.unpack_from("<I", self.table, cluster * 4)[0] & 0x0FFFFFFF
        elif self.bits == 16:
            value = struct.unpack_from("<H", self.table, cluster * 2)[0]
        else:
            value = struct.unpack_from("<H", self.table, cluster * 3 // 2)[0]
            value = value >> 4 if cluster & 1 else value & 0xFFF
        end = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}[self.bits]
        return value if 2 <= value < end else None

    def chain(self, cluster):
        """Place and length of each cluster of a file."""
        for _ in range(CLUSTERS_MAX):
            if not cluster or cluster < 2:
                return
            yield self.data_at + (cluster - 2) * self.cluster_bytes, self.cluster_bytes
            cluster = self.next(cluster)

    def settle(self, epoch):
        """Sets the times in all directories."""
        date, clock = dos(epoch)
        directories = [self.root]
        while directories:
            for at, count in directories.pop():
                content = bytearray(self.read(at, count))
                for entry in range(0, count, ENTRY):
                    name, kind = content[entry], content[entry + 11]
                    if name == 0:
                        break
                    if kind & 0x3F == LONG_NAME:
                        continue
                    changed_at, changed_on = struct.unpack_from("<HH", content, entry + 22)
                    content[entry + 13] = 0
                    struct.pack_into("<HHH", content, entry + 14, clock, date, date)
                    if (changed_on, changed_at) > (date, clock):
                        struct.pack_into("<HH", content, entry + 22, clock, date)
                    if kind & DIRECTORY and not kind & LABEL and name not in b".\xe5":
                        high, low = (struct.unpack_from("<H", content, entry + n)[0] for n in (20, 26))
                        low |= high << 16 if self.bits == 32 else 0
                        directories.append(list(self.chain(low)))
                self.device.seek(at)
                self.device.write(content)


def main():
    with open(sys.argv[1], "r+b") as device:
        Fat(device).settle(int(sys.argv[2]))


main()
