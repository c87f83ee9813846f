"""Which system calls a confined process may make: an allow-list, as a seccomp filter.

What is not on the list fails with ENOSYS, as on a kernel that lacks it, so that libraries fall back
where they can. Absent are, among others, all that makes a process (fork, vfork, and clone but for
threads), sockets (but for an unnamed local pair, with which asyncio wakes itself), shared memory
and files in memory (which no limit counts), mounts, namespaces, ptrace and its kin, keys, bpf,
io_uring, perf, userfaultfd, file locks (which would be seen on the host) and inotify.
"""

import ctypes
import errno
import struct

from keras_textdiff.evaluation.sandbox import syscalls

# Numbers by name: (x86_64, aarch64); None where a machine does not have the call.
ALLOWED = {
    # files
    "read": (0, 63),
    "write": (1, 64),
    "open": (2, None),
    "close": (3, 57),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "dup": (32, 23),
    "dup2": (33, None),
    "sendfile": (40, 71),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "getdents": (78, None),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "fchdir": (81, 50),
    "rename": (82, None),
    "mkdir": (83, None),
    "rmdir": (84, None),
    "creat": (85, None),
    "link": (86, None),
    "unlink": (87, None),
    "symlink": (88, None),
    "readlink": (89, None),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "umask": (95, 166),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "getdents64": (217, 61),
    "fadvise64": (221, 223),
    "openat": (257, 56),
    "mkdirat": (258, 34),
    "newfstatat": (262, 79),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "linkat": (265, 37),
    "symlinkat": (266, 36),
    "readlinkat": (267, 78),
    "fchmodat": (268, 53),
    "faccessat": (269, 48),
    "utimensat": (280, 88),
    "dup3": (292, 24),
    "renameat2": (316, 276),
    "statx": (332, 291),
    "close_range": (436, 436),
    "faccessat2": (439, 439),
    # waiting
    "poll": (7, None),
    "pipe": (22, None),
    "select": (23, None),
    "epoll_wait": (232, None),
    "epoll_ctl": (233, 21),
    "pselect6": (270, 72),
    "ppoll": (271, 73),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "epoll_create1": (291, 20),
    "pipe2": (293, 59),
    # a local pair of sockets, see _CONDITIONS
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "shutdown": (48, 210),
    "getsockopt": (55, 209),
    # memory
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # signals and timers, which reach no further than this pid namespace
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pause": (34, None),
    "getitimer": (36, 102),
    "alarm": (37, None),
    "setitimer": (38, 103),
    "kill": (62, 129),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "tkill": (200, 130),
    "restart_syscall": (219, 128),
    "tgkill": (234, 131),
    # time
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "times": (100, 153),
    "time": (201, None),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    # this process and its threads
    "sched_yield": (24, 124),
    "getpid": (39, 172),
    "execve": (59, 221),
    "exit": (60, 93),
    "wait4": (61, 260),
    "uname": (63, 160),
    "getrlimit": (97, 163),
    "getrusage": (98, 165),
    "getuid": (102, 174),
    "getgid": (104, 176),
    "geteuid": (107, 175),
    "getegid": (108, 177),
    "getppid": (110, 173),
    "getpgrp": (111, None),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "arch_prctl": (158, None),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "set_tid_address": (218, 96),
    "exit_group": (231, 94),
    "waitid": (247, 95),
    "set_robust_list": (273, 99),
    "prlimit64": (302, 261),
    "getcpu": (309, 168),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
# Allowed where the argument at a position has, or has not, what is listed.
CONDITIONAL = {
    "ioctl": (16, 29),
    "socketpair": (53, 199),
    "clone": (56, 220),
    "fcntl": (72, 25),
    "prctl": (157, 167),
}
_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020000 | 0x80
_AF_UNIX = 1
# name: (position of the argument, values of its lower 32 bits)
_VALUES = {
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": (1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    "socketpair": (0, (_AF_UNIX,)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ
    "fcntl": (1, (0, 1, 2, 3, 4, 1030, 1032)),
    # PR_SET_NAME, PR_GET_NAME; above all not PR_SET_PDEATHSIG, which ties it to its parent
    "prctl": (0, (15, 16)),
}

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF instructions
_KILL_PROCESS, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_FILTER_MODE = 2


def build_filter(machine, without=()):
    """Return the filter as a list of BPF instructions (code, jump if true, if false, value).

    Args:
        machine: one of `syscalls.MACHINES`.
        without: names of calls to leave out.
    """
    column = syscalls.MACHINES.index(machine)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        # A call by another architecture's numbers would mean something else.
        (_EQUAL, 1, 0, _AUDIT_ARCHITECTURE[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name, numbers in ALLOWED.items():
        if numbers[column] is not None and name not in without:
            program += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _ALLOW)]
    for name, numbers in CONDITIONAL.items():
        tests = _clone_tests() if name == "clone" else _value_tests(*_VALUES[name])
        program += [(_EQUAL, 0, len(tests), numbers[column]), *tests]
    return [*program, (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]


def _clone_tests():
    return [
        (_LOAD, 0, 0, _ARGUMENTS),
        (_ANY_BIT, 2, 0, _NEW_NAMESPACES),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]


def _value_tests(position, values):
    tests = [(_LOAD, 0, 0, _ARGUMENTS + 8 * position)]
    for value in values:
        tests += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [*tests, (_RETURN, 0, 0, _ERRNO | errno.EPERM)]


def is_available():
    """Return whether this kernel filters system calls."""
    try:
        syscalls.prctl(syscalls.PR_GET_SECCOMP)
    except OSError:
        return False
    return True


def install(without=()):
    """Filter the system calls of this process and all it becomes, for good."""
    program = build_filter(syscalls.MACHINE, without)
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: number of instructions, padding, pointer to them
    header = struct.pack("@HxxxxxxQ", len(program), ctypes.addressof(buffer))
    syscalls.prctl(
        syscalls.PR_SET_SECCOMP, _FILTER_MODE, ctypes.create_string_buffer(header, len(header))
    )
