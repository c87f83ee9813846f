"""Which files of the host make up Python, and where a confined process sees them."""

import functools
import json
import os
import subprocess
import sys

from keras_textdiff.evaluation.sandbox.guest import serve
from keras_textdiff.evaluation.sandbox.python_layout import EXECUTABLE, GUEST, HOME
from keras_textdiff.evaluation.sandbox.sandbox_unavailable import SandboxUnavailable

# Runs in a fresh interpreter. Loads every extension module of the standard library, so that the
# dynamic loader itself says which shared libraries they need; a module that can not be imported
# here could not be imported in the sandbox either. Modules for terminals and windows stay out.
_LOOK = """
import ctypes, importlib, json, os, sys
SKIPPED = {"_tkinter", "_curses", "_curses_panel", "readline", "nis"}
folders = [os.path.realpath(path) for path in sys.path if os.path.isdir(path)]
for folder in folders:
    for name in sorted(os.listdir(folder)):
        module = name.split(".")[0]
        skipped = module in SKIPPED or module.startswith(("_test", "_xx"))
        if name.endswith(".so") and not skipped:
            try:
                importlib.import_module(module)
            except ImportError:
                pass
libraries = []
class Info(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Info), ctypes.c_size_t, ctypes.c_void_p)
def collect(info, size, data):
    libraries.append(os.fsdecode(info.contents.name or b""))
    return 0
ctypes.CDLL(None).dl_iterate_phdr(collect, None)
print(json.dumps({
    "prefixes": [os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)],
    "folders": folders,
    "libraries": [name for name in libraries if name.startswith("/")],
}))
"""


@functools.cache
def find():
    """Return what a confined process is to see, once per process of the caller.

    Returns:
        Dict: "binds", list of (path on the host, path in the sandbox), "covered", paths in the
        sandbox to hide, "path", the list for `sys.path`, and "library_path", where the dynamic
        loader is to look.

    Raises:
        SandboxUnavailable: where this interpreter can not be started or is laid out strangely.
    """
    executable = os.path.realpath(sys.executable or "")
    try:
        result = subprocess.run(
            [executable, "-I", "-S", "-c", _LOOK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        seen = json.loads(result.stdout.splitlines()[-1])
    except (OSError, IndexError, ValueError, subprocess.SubprocessError) as error:
        raise SandboxUnavailable(
            f"The Python to run programs with, {executable!r}, did not say what it consists of: "
            f"{error}."
        ) from error
    folders = [
        folder
        for folder in dict.fromkeys(seen["folders"])
        if not any(folder.startswith(f"{other}/") for other in seen["folders"])
    ]
    sources, covered = {EXECUTABLE: executable}, []  # sources by where they are seen
    library_folders = []
    for folder in folders:
        target = _inside(folder, seen["prefixes"])
        sources[target] = folder
        covered += [
            f"{target}/{name}"
            for name in ("site-packages", "dist-packages")
            if os.path.isdir(f"{folder}/{name}")
        ]
    for library in seen["libraries"]:
        if not any(os.path.realpath(library).startswith(f"{folder}/") for folder in folders):
            name = os.path.basename(library)
            # The system's libraries stay where they are: the loader, which the kernel finds by its
            # full path, and what the judge may still load, whose search path was set before.
            of_system = library.startswith(("/lib", "/usr/lib")) or name.startswith("ld-")
            target = library if of_system else f"{HOME}/lib/{name}"
            library_folders.append(os.path.dirname(target))
            sources[target] = os.path.realpath(library)
    # Importing it here has also compiled it, for interpreters that can not write.
    sources[GUEST] = os.path.dirname(os.path.realpath(serve.__file__))
    path = [_inside(folder, seen["prefixes"]) for folder in seen["folders"]]
    return {
        "binds": [(source, target) for target, source in sources.items()],
        "covered": covered,
        "path": path,
        "library_path": ":".join(dict.fromkeys(library_folders)),
    }


def _inside(folder, prefixes):
    """Return where a folder of the installation lies in the sandbox."""
    for prefix in prefixes:
        if folder.startswith(f"{prefix}/"):
            return HOME + folder.removeprefix(prefix)
    raise SandboxUnavailable(
        f"Python's own files do not lie under its prefix. Got {folder!r}, expected a folder in "
        f"{' or '.join(prefixes)}."
    )
