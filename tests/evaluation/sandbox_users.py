"""Runs a Python script as this user, or as root as an ordinary one.

As a script: becomes an ordinary user and executes a command. Folders that only root may enter, such
as root's home where a Python lies, are opened in a mount namespace of its own: the host's stay.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ORDINARY_USER = 12345
USERS = ["root", "ordinary"] if os.geteuid() == 0 else ["ordinary"]


def run_as(user, script, *arguments, timeout=300):
    """Return the completed process of a script, by this interpreter, as "root" or "ordinary"."""
    command = [sys.executable, str(script), *arguments]
    if os.geteuid() == 0 and user == "ordinary":
        paths = json.dumps([sys.prefix, sys.base_prefix, str(ROOT)])
        command = [sys.executable, "-I", "-S", __file__, paths, *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, cwd="/"
    )


def _load_syscalls():
    path = ROOT / "keras_textdiff/evaluation/sandbox/syscalls.py"
    spec = importlib.util.spec_from_file_location("syscalls", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _closed_folder(path):
    """Return the topmost folder above `path` that others may not enter, or None."""
    above = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001]
    return above[0] if above else None


def _open_for_all(paths):
    syscalls = _load_syscalls()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    hidden = {}
    for path in map(pathlib.Path, paths):
        closed = _closed_folder(path)
        if closed is not None:
            hidden.setdefault(closed, []).append((path, os.open(path, os.O_PATH)))
    for closed, contents in hidden.items():
        syscalls.mount("open", str(closed), "tmpfs", 0, "mode=755")
        for path, descriptor in contents:
            path.mkdir(parents=True, exist_ok=True)
            syscalls.mount(f"/proc/self/fd/{descriptor}", str(path), None, syscalls.MS_BIND)


def main():
    paths, *command = sys.argv[1:]
    _open_for_all(json.loads(paths))
    os.setgroups([])
    os.setresgid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
    os.setresuid(ORDINARY_USER, ORDINARY_USER, ORDINARY_USER)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
