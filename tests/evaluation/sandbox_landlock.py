"""Confines itself with Landlock alone and prints what it can still do."""

import os
import pathlib
import socket
import sys

from tests.evaluation.sandbox_runner import import_without_keras


def main():
    import_without_keras()
    from keras_textdiff.evaluation.sandbox import landlock, syscalls

    version = landlock.version()
    if not version:
        print("no Landlock")
        return
    open_folder, closed_folder = map(pathlib.Path, sys.argv[1:])
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict([open_folder])
    actions = {
        "read": lambda: (closed_folder / "file").read_text(),
        "list": lambda: os.listdir("/"),
        "write in the open folder": lambda: (open_folder / "file").write_text("changed"),
        "make in the open folder": lambda: (open_folder / "folder").mkdir(),
        "write": lambda: (closed_folder / "file").write_text("changed"),
        "make": lambda: (closed_folder / "folder").mkdir(),
        "remove": lambda: (closed_folder / "file").unlink(),
        "rename": lambda: (closed_folder / "file").rename(closed_folder / "other"),
        "link": lambda: (closed_folder / "link").symlink_to("/"),
    }
    if version >= 4:
        actions["listen"] = lambda: socket.socket().bind(("127.0.0.1", 0))
    for name, action in actions.items():
        try:
            action()
        except PermissionError:
            print(f"{name}: refused")
        else:
            print(f"{name}: done")


if __name__ == "__main__":
    main()
