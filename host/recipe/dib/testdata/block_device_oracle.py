"""What the real diskimage-builder makes of block-device configurations.

Arguments: the directory of the package, then configuration files. Prints one
JSON object per file: the merged flat configuration, the order of the nodes and
the symbols, or the message of the error.
"""
import contextlib
import io
import json
import logging
import sys
import tempfile
import types

import yaml

sys.path.insert(0, sys.argv[1])

PLUGINS = {
    "local_loop": ("level0.localloop", "LocalLoop"),
    "partitioning": ("level1.partitioning", "Partitioning"),
    "lvm": ("level1.lvm", "LVMPlugin"),
    "mkfs": ("level2.mkfs", "Mkfs"),
    "mount": ("level3.mount", "Mount"),
    "fstab": ("level4.fstab", "Fstab"),
}


class Plugin:
    """An entry point of the package, without installing it."""

    def __init__(self, name):
        self.name = name

    @property
    def plugin(self):
        module, name = PLUGINS[self.name]
        module = "diskimage_builder.block_device." + module
        return getattr(__import__(module, fromlist=[name]), name)


class ExtensionManager:
    """As much of stevedore as the block-device layer uses."""

    def __init__(self, **_):
        self.plugins = {name: Plugin(name) for name in PLUGINS}

    def map(self, function):
        return [function(plugin) for plugin in self.plugins.values()]

    def __getitem__(self, name):
        return self.plugins[name]


stevedore = types.ModuleType("stevedore")
stevedore.extension = types.ModuleType("stevedore.extension")
stevedore.extension.ExtensionManager = ExtensionManager
sys.modules["stevedore"] = stevedore
sys.modules["stevedore.extension"] = stevedore.extension
logging.disable(logging.CRITICAL)

from diskimage_builder.block_device.blockdevice import BlockDevice  # noqa: E402
from diskimage_builder.block_device.config import config_tree_to_graph  # noqa: E402
from diskimage_builder.block_device.config import create_graph  # noqa: E402

SYMBOLS = ["root-label", "root-fstype", "boot-label", "mount-points"]


def examine(path):
    """Takes one configuration as far as the real layer does before `create`."""
    with tempfile.TemporaryDirectory() as directory:
        params = {
            "config": path, "image-dir": directory, "root-fs-type": "ext4",
            "root-label": None, "mount-base": directory, "build-dir": directory,
            "root-fs-opts": "-i 4096", "image-size": "1000000KiB",
        }
        device = BlockDevice(params)
        with open(path) as file:
            device.config = config_tree_to_graph(yaml.safe_load(file))
        device._merge_rootfs_params()
        result = {"config": device.config}
        _, order = create_graph(device.config, params, {})
        result["order"] = [node.name for node in order]
        result["symbols"] = {}
        for symbol in SYMBOLS:
            out = io.StringIO()
            try:
                with contextlib.redirect_stdout(out):
                    device.cmd_getval(symbol)
                result["symbols"][symbol] = out.getvalue().rstrip("\n")
            except (AssertionError, KeyError):
                pass
        return result


for path in sys.argv[2:]:
    try:
        print(json.dumps(examine(path)))
    except Exception as error:
        print(json.dumps({"error": str(error)}))
