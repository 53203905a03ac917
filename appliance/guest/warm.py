# Imported once while the tool root is writable, so that later starts find byte
# code. A module that is not there is no error: the list is a guess at what
# hooks use, not a requirement.
import importlib

for name in (
    "argparse", "base64", "collections", "configparser", "contextlib", "copy",
    "datetime", "fnmatch", "functools", "getopt", "glob", "hashlib", "io",
    "itertools", "json", "logging", "optparse", "os", "pathlib", "pprint",
    "random", "re", "shlex", "shutil", "socket", "string", "subprocess", "sys",
    "tempfile", "textwrap", "time", "traceback", "urllib.request", "uuid",
    "xml.etree.ElementTree", "yaml",
):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
