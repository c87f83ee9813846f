"""The file system of a confined process: Python, a scratch folder, and nothing else."""

import os

from keras_textdiff.evaluation.sandbox import syscalls
from keras_textdiff.evaluation.sandbox.python_layout import SCRATCH
from keras_textdiff.evaluation.sandbox.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
_OLD = "/old"
# Flags of a mount that may not be dropped when it is mounted again: (statvfs bit, mount flag).
_LOCKED = (
    (os.ST_NOSUID, MS_NOSUID),
    (os.ST_NODEV, MS_NODEV),
    (os.ST_NOEXEC, MS_NOEXEC),
    (os.ST_NOATIME, 1024),
    (os.ST_NODIRATIME, 2048),
    (os.ST_RELATIME, 1 << 21),
)


def build(binds, covered, *, user, file_mb, num_files):
    """Give this process, in its own mount namespace, a new root file system.

    Args:
        binds: list of (path on the host without symbolic links, path in the new root): files and
            folders to show, read-only.
        covered: list of folders in the new root to hide.
        user: int, owner of the scratch folder.
        file_mb: int, MiB that the scratch folder holds.
        num_files: int, how many files and folders it holds.
    """
    # Nothing that is mounted here may show on the host.
    syscalls.mount(None, "/", None, MS_REC | MS_PRIVATE)
    # Any folder will do to mount the new root on: it comes to light again with pivot_root.
    base = os.path.dirname(os.path.realpath(__file__))
    syscalls.mount("root", base, "tmpfs", MS_NOSUID, "size=1m,nr_inodes=1k,mode=755")
    os.mkdir(base + _OLD)
    os.chdir(base)
    syscalls.pivot_root(".", "." + _OLD)
    os.chdir("/")
    for source, target in binds:
        _bind(_OLD + source, target, MS_NODEV)
    for device in DEVICES:
        _bind(_OLD + device, device, MS_NOEXEC)
    for folder in covered:
        syscalls.mount(
            "empty",
            folder,
            "tmpfs",
            MS_RDONLY | MS_NOSUID | MS_NODEV,
            "size=4k,nr_inodes=1,mode=755",
        )
    os.mkdir(SCRATCH)
    options = f"size={file_mb}m,nr_inodes={num_files + 1},mode=700,uid={user},gid={user}"
    syscalls.mount("scratch", SCRATCH, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    syscalls.unmount(_OLD)
    os.rmdir(_OLD)
    syscalls.mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _bind(source, target, flags):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.isdir(source):
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    syscalls.mount(source, target, None, MS_BIND | MS_REC)
    present = os.statvfs(target).f_flag
    for bit, flag in _LOCKED:
        flags |= flag if present & bit else 0
    syscalls.mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | flags)
