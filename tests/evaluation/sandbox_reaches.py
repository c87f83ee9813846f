"""Programs that try to reach what lies outside: they return what they got hold of."""

import os
import textwrap

from tests.evaluation.sandbox_attacks import IPC_KEY, TRACE, attack


def reaches(name, program, *, allowed="[]"):
    """Add an attack whose `solve()` is to return `allowed`."""
    program = HELPERS + textwrap.dedent(program)
    attack(name, program, [f"assert solve() == {allowed}, solve()"], ("pass",))


HELPERS = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def succeed(*actions):
    done = []
    for index, action in enumerate(actions):
        try:
            result = action()
        except Exception:
            continue
        if result is not None and result is not False and result != -1:
            done.append((index, str(result)))
    return done
def call(*arguments):
    return lambda: libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
X86 = os.uname().machine == "x86_64"
"""

reaches(
    "files of the host",
    """
    paths = ("/etc/passwd", "/etc/hostname", "/etc/ld.so.cache", "/root", "/home", "/tmp", "/proc",
             "/proc/self/status", "/proc/1/environ", "/sys", "/usr/bin", "/var", "/mnt", "/opt",
             "/old", "/boot", "/run", "/dev/shm", "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/pts")
    def solve(): return [path for path in paths if os.path.lexists(path)]
    """,
)
reaches(
    "all that there is",
    """
    def solve():
        found = {*os.listdir("/"), *os.listdir("/dev")}
        for folder, _, names in [*os.walk("/lib"), *os.walk("/lib64"), *os.walk("/usr")]:
            found |= {name for name in names if ".so" not in name}
        known = {"dev", "lib", "lib64", "usr", "python", "scratch", "null", "urandom", "zero"}
        return sorted(found - known)
    """,
)
reaches(
    "installed packages",
    """
    def solve():
        found = []
        for folder, folders, names in os.walk("/"):
            if folder.endswith(("site-packages", "dist-packages")):
                found += folders + names
        return found
    """,
)
reaches(
    "descriptors of the root",
    """
    def solve():
        return succeed(*[
            lambda n=n, up=up: os.listdir(os.open(up, os.O_RDONLY, dir_fd=n)) and (n, up)
            for n in range(64) for up in ("..", "../../../../etc")
        ])
    """,
)
reaches(
    "writing to Python and the root",
    f"""
    import sys
    def write(path):
        with open(path, "a") as file: file.write("x")
        return path
    def solve():
        places = [*sys.path, "/", "/python", "/python/bin", "/python/lib", "/dev", "/lib64", "/tmp",
                  "/python/guest", os.path.dirname(os.__file__) + "/__pycache__"]
        files = [os.__file__, "/python/bin/python", *(f"{{p}}/{TRACE}" for p in places)]
        return succeed(*[lambda path=path: write(path) for path in files],
                       *[lambda path=path: os.mkdir(path + "x") or path for path in files],
                       *[lambda path=path: os.symlink("/", path + "y") or path for path in files],
                       lambda: os.remove(os.__file__) or 1,
                       lambda: os.rename(os.__file__, os.__file__ + "x") or 1,
                       lambda: os.chmod(os.__file__, 0o777) or 1,
                       lambda: os.utime(os.__file__) or 1,
                       lambda: os.truncate(os.__file__, 0) or 1)
    """,
)
reaches(
    "networks",
    """
    import socket
    def connect(family, kind, address):
        with socket.socket(family, kind) as made:
            made.settimeout(1)
            made.connect(address)
            return address
    def listen():
        with socket.socket() as made:
            made.bind(("127.0.0.1", 0))
            return 1
    def solve():
        return succeed(
            lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 22)),
            lambda: connect(socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 53)),
            lambda: connect(socket.AF_INET, socket.SOCK_DGRAM, ("1.1.1.1", 53)),
            lambda: connect(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 22)),
            lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "/run/docker.sock"),
            lambda: connect(socket.AF_UNIX, socket.SOCK_STREAM, "\\0abstract"),
            listen,
            lambda: socket.socket(socket.AF_UNIX),
            lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW),
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
            lambda: socket.socket(40, socket.SOCK_STREAM),  # AF_VSOCK, which namespaces do not hold
            lambda: socket.socketpair(socket.AF_INET),
            lambda: socket.getaddrinfo("example.com", 80),
        )
    """,
)
reaches(
    "another user",
    """
    def solve():
        return succeed(
            lambda: os.getuid() == 0 and "root", lambda: os.geteuid() == 0 and "root",
            lambda: os.setuid(0) or 1, lambda: os.setgid(0) or 1, lambda: os.setuid(1000) or 1,
            lambda: os.setgroups([0]) or 1, lambda: os.setresuid(0, 0, 0) or 1,
            lambda: os.chroot("/scratch") or 1,
            lambda: os.mknod("/scratch/disk", 0o60666, os.makedev(254, 0)) or 1,
            lambda: os.setpriority(os.PRIO_PROCESS, 0, -5) or 1,
            lambda: os.chown("/scratch", 0, 0) or 1,
            call(125 if X86 else 90, ctypes.create_string_buffer(b"\\x22\\x05\\x08\\x20", 8),
                 ctypes.create_string_buffer(24)),  # capget
        )
    """,
)
reaches(
    "mounts and namespaces",
    """
    flags = (0x10000000, 0x00020000, 0x20000000, 0x40000000, 0x08000000, 0x04000000, 0x02000000)
    def solve():
        return succeed(
            *[lambda flag=flag: libc.unshare(flag) == 0 and hex(flag) for flag in flags],
            *[call(56 if X86 else 220, flag | 17, 0, 0, 0, 0) for flag in flags],
            call(56 if X86 else 220, 17, 0, 0, 0, 0),
            lambda: libc.mount(b"none", b"/scratch", b"tmpfs", 0, None) == 0,
            lambda: libc.mount(b"proc", b"/scratch", b"proc", 0, None) == 0,
            lambda: libc.umount2(b"/python/lib/python3.11/site-packages", 2) == 0,
            lambda: libc.umount2(b"/", 2) == 0,
            lambda: libc.setns(3, 0) == 0,
            call(155 if X86 else 41, b"/scratch", b"/scratch"),  # pivot_root
            call(428, -100, b"/", 1),  # open_tree
            call(429, -100, b"/", -100, b"/scratch", 0),  # move_mount
            call(430, b"proc", 0),  # fsopen
            call(442, -100, b"/", 0, 0, 0),  # mount_setattr
            lambda: libc.sethostname(b"a", 1) == 0,
        )
    """,
)
reaches(
    "the kernel's other doors",
    """
    numbers = {  # x86_64, aarch64
        "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
        "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
        "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
        "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273),
        "reboot": (169, 142), "swapon": (167, 224), "syslog": (103, 116), "acct": (163, 89),
        "quotactl": (179, 60), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
        "personality": (135, 92), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186),
        "mq_open": (240, 180), "memfd_create": (319, 279), "memfd_secret": (447, 447),
        "inotify_init1": (294, 26), "fanotify_init": (300, 262), "flock": (73, 32),
        "seccomp": (317, 277), "landlock_create_ruleset": (444, 444), "pidfd_open": (434, 434),
        "settimeofday": (164, 170), "clock_settime": (227, 112), "mlock": (149, 228),
        "iopl": (172, -1), "sysinfo": (99, 179), "clone3": (435, 435), "setsid": (112, 157),
        "remap_file_pages": (216, 234), "vmsplice": (278, 75), "splice": (275, 76),
        "rt_sigqueueinfo": (129, 138), "kcmp": (312, 272), "sched_setaffinity": (203, 122),
    }
    def solve():
        made = []
        for name, pair in numbers.items():
            ctypes.set_errno(0)
            result = libc.syscall(ctypes.c_long(pair[not X86]), *[ctypes.c_long(0)] * 6)
            # 38: "function not implemented", the filter's answer
            if result != -1 or ctypes.get_errno() != 38:
                made.append((name, result, ctypes.get_errno()))
        return made
    """,
)
reaches(
    "shared memory that stays",
    f"""
    from multiprocessing import shared_memory
    def solve():
        return succeed(
            lambda: shared_memory.SharedMemory("{TRACE}", create=True, size=1024),
            lambda: libc.shmget({IPC_KEY}, 4096, 0o1666), lambda: libc.semget({IPC_KEY}, 1, 0o1666),
            lambda: libc.msgget({IPC_KEY}, 0o1666),
            lambda: libc.sem_open(b"/{TRACE}", 64, 0o666, 1) or None,
        )
    """,
)
reaches(
    "living on",
    """
    import signal
    def solve():
        return succeed(
            lambda: os.fork(), lambda: os.setsid() or 1, lambda: os.forkpty(), os.daemon
            if hasattr(os, "daemon") else lambda: None,
            lambda: libc.prctl(1, 0, 0, 0, 0) == 0,  # PR_SET_PDEATHSIG
            lambda: libc.prctl(36, 1, 0, 0, 0) == 0,  # PR_SET_CHILD_SUBREAPER
            lambda: libc.prctl(4, 1, 0, 0, 0) == 0,  # PR_SET_DUMPABLE
            lambda: os.kill(2, 0) or 1, lambda: os.kill(os.getppid() or 2, 0) or 1,
        )
    """,
)
reaches(
    "higher limits",
    """
    import resource
    kinds = ("AS", "CPU", "NPROC", "NOFILE", "FSIZE", "CORE", "MEMLOCK", "MSGQUEUE")
    def higher(kind):
        soft, hard = resource.getrlimit(kind)
        if hard == resource.RLIM_INFINITY: return "no limit"
        resource.setrlimit(kind, (hard + 1, hard + 1))
        return kind
    def solve():
        return succeed(*[lambda k=k: higher(getattr(resource, "RLIMIT_" + k)) for k in kinds])
    """,
)
reaches(
    "the host's name and environment",
    """
    def solve():
        kept = {"HOME", "TMPDIR", "LC_ALL", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX"}
        return [os.uname().nodename, *sorted(set(os.environ) - kept), os.getcwd()]
    """,
    allowed="['sandbox', '/scratch']",
)
reaches(
    "what the program before left",
    f"""
    def solve():
        found = os.listdir("/scratch")
        open("/scratch/{TRACE}", "w").close()
        os.mkdir("/scratch/{TRACE}s")
        return found
    """,
)
reaches(
    "locks that others would see",
    """
    import fcntl
    def solve():
        file = open(os.__file__)
        return succeed(
            lambda: fcntl.flock(file, fcntl.LOCK_SH) or 1, lambda: fcntl.lockf(file, 1) or 1,
            lambda: fcntl.fcntl(file, 1024, 0) + 1, lambda: fcntl.fcntl(file, 8, 1) + 1,
        )
    """,
)
reaches(
    "the host's null device",
    """
    import stat
    devices = [n for n in range(64) if succeed(lambda: stat.S_ISCHR(os.fstat(n).st_mode))]
    def solve():
        return succeed(
            *[lambda n=n: os.fchmod(n, 0o777) or n for n in devices],
            *[lambda n=n: os.utime(n) or 1 for n in devices],
            lambda: os.chmod("/dev/null", 0o777) or 1, lambda: os.utime("/dev/null") or 1,
            lambda: os.remove("/dev/null") or 1,
        )
    """,
)
reaches(
    "programs of its own",
    """
    import shutil
    def solve():
        shutil.copy("/python/bin/python", "/scratch/python")
        os.chmod("/scratch/python", 0o4755)
        return succeed(lambda: os.execv("/scratch/python", ["python"]))
    """,
)
reaches(
    "paths through the scratch folder",
    """
    def solve():
        os.symlink("/", "/scratch/root")
        os.symlink("../../../..", "/scratch/up")
        return [name for link in ("root", "up") for name in os.listdir(f"/scratch/{link}/")
                if name in ("etc", "root", "home", "proc", "old")]
    """,
)
MACHINE_CODE = """
import mmap
def run(code):
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ctypes.CFUNCTYPE(ctypes.c_long)(address)()
"""
if os.uname().machine == "x86_64":
    attack(
        "system calls of 32 bits",
        HELPERS + MACHINE_CODE + r"def solve(*a): return run(b'\xb8\2\0\0\0\xcd\x80\xc3')",
    )
    # getpid by its x32 number: ENOSYS
    reaches(
        "system calls of x32",
        MACHINE_CODE
        + r"""
def solve():
    result = run(b"\xb8\x27\x00\x00\x40\x0f\x05\xc3")
    return [] if result == -38 else [result]
""",
    )
