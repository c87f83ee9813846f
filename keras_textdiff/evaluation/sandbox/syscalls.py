"""System calls that Python does not offer, by ctypes. Linux on x86_64 and aarch64.

Runs in the supervisor and its children, which import nothing but the standard library.
"""

import ctypes
import os

# use_errno keeps errno of a failed call; PyDLL is not needed, all callers have one thread.
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

MACHINE = os.uname().machine
MACHINES = ("x86_64", "aarch64")

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

# `signal` knows it too, but imports `enum`, which takes long.
SIGKILL = 9

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_SECCOMP = 21
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}


def check(result, what):
    """Return `result`, or raise an OSError that says `what` failed where it is -1."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(what, number, *arguments):
    """Make a system call by its number; ints are passed as longs."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return check(_libc.syscall(ctypes.c_long(number), *converted), what)


def unshare(flags):
    """Move this process, or for CLONE_NEWPID its children, to new namespaces."""
    check(_libc.unshare(ctypes.c_int(flags)), f"unshare({flags:#x})")


def mount(source, target, kind, flags, options=None):
    """Mount, see mount(2)."""
    arguments = [None if a is None else os.fsencode(a) for a in (source, target, kind)]
    options = None if options is None else options.encode()
    result = _libc.mount(*arguments, ctypes.c_ulong(flags), options)
    check(result, f"mount({source!r} on {target!r})")


def unmount(target):
    """Detach a mount and all below it."""
    check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount({target!r})")


def pivot_root(new_root, old_root):
    """Make `new_root` the root of this mount namespace, the former one `old_root`."""
    syscall("pivot_root", _PIVOT_ROOT[MACHINE], os.fsencode(new_root), os.fsencode(old_root))


def prctl(option, *arguments):
    """Call prctl(2)."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    converted = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in padded]
    return check(_libc.prctl(ctypes.c_int(option), *converted), f"prctl({option})")


def set_host_name(name):
    """Name the machine, within this UTS namespace."""
    check(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")


def clear_capabilities():
    """Give up every capability of this process."""
    version_3 = (ctypes.c_uint32 * 2)(0x20080522, 0)  # header: version, this process
    nothing = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, two words each
    syscall("capset", _CAPSET[MACHINE], version_3, nothing)


def die_with_parent():
    """Have the kernel kill this process when its parent ends."""
    prctl(PR_SET_PDEATHSIG, SIGKILL)
