"""Landlock: a second lock on files and networks, which needs no mount to be right.

Reference: https://docs.kernel.org/userspace-api/landlock.html
"""

import ctypes
import os
import struct

from keras_textdiff.evaluation.sandbox import syscalls

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on all machines
_ASK_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_DIR, _MAKE_REGULAR, _MAKE_SYMLINK = 1 << 7, 1 << 8, 1 << 12
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_ALL_OF_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract unix sockets, signals

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_SCRATCH = (
    _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE
    | _MAKE_DIR | _MAKE_REGULAR | _MAKE_SYMLINK | _REFER | _TRUNCATE
)  # fmt: skip


def version():
    """Return the kernel's Landlock version, 0 where it has none."""
    try:
        return syscalls.syscall("landlock_create_ruleset", _CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def restrict(writable):
    """Let this process, for good, read its root file system and change nothing but `writable`.

    Args:
        writable: list of paths; folders may be written to, files too.
    """
    abi = version()
    handled = max(rights for first, rights in _ALL_OF_ABI.items() if first <= abi)
    attributes = struct.pack("=QQQ", handled, _TCP, _SCOPES)
    # Older kernels know only the first fields.
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = syscalls.syscall(
        "landlock_create_ruleset",
        _CREATE_RULESET,
        ctypes.create_string_buffer(attributes, size),
        size,
        0,
    )
    _add(ruleset, "/", _READ & handled)
    for path in writable:
        rights = _SCRATCH if os.path.isdir(path) else _WRITE_FILE | _READ_FILE
        _add(ruleset, path, rights & handled)
    syscalls.syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _add(ruleset, path, rights):
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, descriptor)
    syscalls.syscall(
        "landlock_add_rule",
        _ADD_RULE,
        ruleset,
        _RULE_PATH_BENEATH,
        ctypes.create_string_buffer(rule, len(rule)),
        0,
    )
    os.close(descriptor)
