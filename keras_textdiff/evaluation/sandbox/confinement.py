"""The steps by which a process gives up everything but Python and its open pipes, for good.

The order matters: each step needs rights that a later one takes away.
"""

import os
import resource

from keras_textdiff.evaluation.sandbox import filesystem, landlock, seccomp, syscalls

NOBODY = 65534  # an identity that owns nothing, on the host and in the sandbox
_OTHER_NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWCGROUP
)

_MAX_CAPABILITIES = 64


def is_root():
    """Return whether this process can become another user: root, but not of a namespace of one."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/uid_map") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    return any(first <= NOBODY < first + count for first, _, count in ranges)


def leave_host_processes(as_root):
    """Have the next child of this process be process 1 of a new pid namespace.

    An ordinary user needs a user namespace first, which then owns all the others. Root does not,
    and makes its user namespace last, as an unprivileged user, so that the others stay beyond that
    one's reach.
    """
    if as_root:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        return
    user, group = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID)
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    _map_identity(proc, user, group)
    os.close(proc)


def confine(as_root, files, limits, *, writable=()):
    """Confine this process. Its namespaces are those `leave_host_processes` made, and new ones.

    Args:
        as_root: bool, what `is_root` returned at first.
        files: dict from `python_files.find`.
        limits: dict of the limits of `Sandbox`.
        writable: paths in the new root file system that may be written to.
    """
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    syscalls.unshare(_OTHER_NAMESPACES)
    syscalls.set_host_name("sandbox")
    filesystem.build(
        files["binds"],
        files["covered"],
        user=NOBODY,
        file_mb=limits["file_mb"],
        num_files=limits["num_files"],
    )
    if as_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # The change of user gave this process's files in /proc to root.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        _map_identity(proc, NOBODY, NOBODY)
    os.close(proc)
    _drop_capabilities()
    _set_limits(limits)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    # After every change of identity, each of which undoes it. A parent that died before this is
    # noticed as well: its pipes are closed.
    syscalls.die_with_parent()
    if landlock.version():
        landlock.restrict(writable)
    if seccomp.is_available():
        seccomp.install()


def _map_identity(proc, user, group):
    """Name `user` and `group`, as seen from outside, NOBODY in this process's user namespace.

    Args:
        proc: descriptor of the host's /proc, which may be out of sight.
        user, group: int, the only identity the namespace knows.
    """
    for name, text in (
        ("setgroups", "deny"),
        ("gid_map", f"{NOBODY} {group} 1"),
        ("uid_map", f"{NOBODY} {user} 1"),
    ):
        descriptor = os.open(f"self/{name}", os.O_WRONLY, dir_fd=proc)
        os.write(descriptor, text.encode())
        os.close(descriptor)


def _drop_capabilities():
    for capability in range(_MAX_CAPABILITIES):
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last one that the kernel knows
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.clear_capabilities()


def _set_limits(limits):
    mebibyte = 1 << 20
    for kind, limit in (
        (resource.RLIMIT_AS, limits["memory_mb"] * mebibyte),
        (resource.RLIMIT_CPU, int(-(-limits["cpu_seconds"] // 1))),
        (resource.RLIMIT_NPROC, limits["num_threads"]),
        (resource.RLIMIT_NOFILE, limits["num_files"]),
        (resource.RLIMIT_FSIZE, limits["file_mb"] * mebibyte),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        # The hard limit too: it can not be raised again. Past that of CPU time comes SIGKILL,
        # which process 1 of a namespace gets unlike SIGXCPU.
        resource.setrlimit(kind, (limit, limit))
