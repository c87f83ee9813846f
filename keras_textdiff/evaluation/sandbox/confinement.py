"""The steps by which processes give up everything but Python and their open pipes, for good.

The supervisor moves to namespaces of its own and a file system with nothing but Python; the judge
and the program, its children, then give up what rights they have. The order matters: each step
needs rights that a later one takes away.
"""

import os
import resource

from keras_textdiff.evaluation.sandbox import filesystem, landlock, seccomp, syscalls

NOBODY = 65534  # an identity that owns nothing, on the host and in the sandbox
_NAMESPACES = (
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


def leave_host(as_root, proc, files, limits):
    """Move this process away from the host's mounts, networks, shared memory and names.

    An ordinary user needs a user namespace first, which then owns all the others. Root does not:
    its children make one each, as an unprivileged user, so that the others stay beyond their reach.

    Args:
        as_root: bool, what `is_root` returned.
        proc: descriptor of the host's /proc.
        files: dict from `python_files.find`.
        limits: dict of the limits of `Sandbox`.
    """
    if as_root:
        syscalls.unshare(_NAMESPACES)
    else:
        user, group = os.geteuid(), os.getegid()
        syscalls.unshare(_NAMESPACES | syscalls.CLONE_NEWUSER)
        _map_identity(proc, user, group)
    syscalls.set_host_name("sandbox")
    filesystem.build(
        files["binds"],
        files["covered"],
        user=NOBODY,
        file_mb=limits["file_mb"],
        num_files=limits["num_files"],
    )


def leave_host_processes():
    """Have the next child of this process be process 1 of a new pid namespace."""
    syscalls.unshare(syscalls.CLONE_NEWPID)


def give_up_rights(as_root, proc, limits, *, writable=(), without=()):
    """Leave this process, a child of one that has left the host, what a program may have.

    Args:
        as_root: bool, whether it was root at first.
        proc: descriptor of the host's /proc; it is closed.
        limits: dict of the limits of `Sandbox`.
        writable: paths that may be written to.
        without: names of system calls that are not to be allowed either.
    """
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
        seccomp.install(without)


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
        _, highest = resource.getrlimit(kind)
        if highest != resource.RLIM_INFINITY:
            limit = min(limit, highest)
        # The hard limit too: it can not be raised again. Past that of CPU time comes SIGKILL,
        # which process 1 of a namespace gets unlike SIGXCPU.
        resource.setrlimit(kind, (limit, limit))
