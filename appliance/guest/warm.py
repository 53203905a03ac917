# Imported once while the tool root is writable, so that later starts find byte
# code: what the Python helpers of elements import. A module that is not there
# is no error.
import importlib

for name in (
    "argparse", "collections", "functools", "json", "logging", "os", "re",
    "shutil", "string", "subprocess", "sys", "tempfile", "yaml",
):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
