"""Programs that do not end, or use up what there is: they must end in time, as named."""

from tests.evaluation.sandbox_attacks import attack

ONE = ("assert solve(1) == 1",)


def endless(name, program, expected, tests=ONE):
    attack(name, program, tests, expected if isinstance(expected, tuple) else (expected,))


endless("a loop", "def solve(n):\n    while True: pass", "timeout")
endless("a loop at once", "while True: pass", "timeout")
endless("sleep", "import time\ndef solve(n): time.sleep(1000)", "timeout")
endless(
    "a loop that catches all",
    """
    import signal
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    def solve(n):
        while True:
            try:
                while True: pass
            except BaseException:
                pass
    """,
    "timeout",
)
endless("waiting for a signal", "import signal\ndef solve(n): signal.pause()", "timeout")
endless(
    "stopped",
    "import os, signal, time\ndef solve(n):\n    os.kill(0, signal.SIGSTOP)\n    time.sleep(1000)",
    "timeout",
)
endless(
    "threads that stop and sleep",
    """
    import os, signal, threading, time
    def stop():
        signal.raise_signal(signal.SIGSTOP)
        time.sleep(1000)
    def solve(n):
        threads = [threading.Thread(target=stop) for _ in range(5)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """,
    "timeout",
)
endless(
    "deadlock",
    """
    import threading
    def solve(n):
        lock = threading.Lock()
        while True: lock.acquire()
    """,
    "timeout",
)
endless("one long instruction", "def solve(n): return 3 ** 10 ** 9 % 7", ("timeout", "memory"))
endless(
    "a regular expression",
    "import re\ndef solve(n): return re.match('(a+)+$', 'a' * 64 + 'b')",
    "timeout",
)
endless("a generator without end",
        "import itertools\ndef solve(n): return itertools.repeat(0)",
        "timeout", ["assert sum(solve(1)) == 1"])  # fmt: skip
endless("an object without end",
        "class Evil:\n    def __iter__(self): return self\n    def __next__(self): return 2\n"
        "def solve(n): return Evil()",
        "timeout", ["assert 1 in solve(1)"])  # fmt: skip
endless(
    "callbacks without end",
    "def solve(f):\n    while True: f()",
    "timeout",
    ["assert solve(lambda: 1) == 1"],
)
endless(
    "requests left unread",
    "import time\ndef solve(n):\n    while True: time.sleep(100)",
    "timeout",
    ["assert solve('a' * 200000) == 1"],
)
endless(
    "colliding numbers for the judge",
    """
    import os
    def solve(n):  # all of one hash
        numbers = ",".join(f'["int", "{i * ((1 << 61) - 1):#x}"]' for i in range(30000))
        os.write(4, f'["value", ["set", {numbers}]]\\n'.encode())
    """,
    ("timeout", "output"),
)
endless(
    "fork bomb",
    """
    import os
    def solve(n):
        while True:
            os.fork()
    """,
    "error",
)
endless(
    "patient fork bomb",
    """
    import os
    def solve(n):
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """,
    "timeout",
)
endless(
    "fork bomb by system calls",
    """
    import ctypes
    libc = ctypes.CDLL(None)
    def solve(n):
        made = [libc.syscall(number, 17, 0, 0, 0, 0) for number in (56, 57, 58, 435, 220)
                for _ in range(50)]
        return [number for number in made if number > 0] or 1
    """,
    "pass",
)
endless("subprocesses", "import subprocess\ndef solve(n): subprocess.Popen(['/python/bin/python'])",
        "error")  # fmt: skip
endless(
    "a pool of processes",
    "import multiprocessing\ndef solve(n): return multiprocessing.Pool(8).map(abs, [1])[0]",
    ("error", "timeout"),
)
endless(
    "threads without end",
    """
    import threading, time
    def solve(n):
        while True:
            threading.Thread(target=time.sleep, args=(1000,)).start()
    """,
    ("error", "memory"),
)
endless(
    "processor time of many threads",
    """
    import threading
    def burn():
        while True: sum(range(1000000))
    def solve(n):
        for _ in range(8): threading.Thread(target=burn).start()
        burn()
    """,
    "timeout",
)
endless("a large list", "def solve(n): return [0] * 10 ** 10", "memory")
endless("a growing list",
        "def solve(n):\n    grown = [0]\n    while True: grown += grown", "memory")  # fmt: skip
endless("a growing string at once", "text = 'a'\nwhile True: text += text", "memory")
endless(
    "memory of its own",
    "import mmap\ndef solve(n):\n    return [mmap.mmap(-1, 1 << 24) for _ in range(10 ** 4)]",
    ("memory", "error"),
)
endless(
    "memory of threads",
    """
    import threading
    def grow(grown):
        while True: grown += grown
    def solve(n):
        for _ in range(4): threading.Thread(target=grow, args=([0],)).start()
        grow([0])
    """,
    ("memory", "error", "timeout"),
)
endless(
    "files in memory",
    """
    import os
    def solve(n):
        descriptor = os.memfd_create("a")
        while True: os.write(descriptor, bytes(1 << 20))
    """,
    "error",
)
endless(
    "deep recursion",
    "import sys\nsys.setrecursionlimit(10 ** 9)\ndef solve(n): return solve(n) + 1",
    ("error", "memory", "timeout"),
)
endless(
    "a deep value",
    "def solve(n):\n    deep = []\n    for _ in range(100000): deep = [deep]\n    return deep",
    ("error", "output"),
)
endless(
    "a deep reply",
    "import os\ndef solve(n): os.write(4, b'[\"value\", ' + b'[\"list\",' * 100000 + b'\\n')",
    ("error", "output"),
)
endless("a large number", "def solve(n): return 7 ** 10 ** 6", ("fail", "output"))
endless(
    "a number of too many digits",
    "import os\ndef solve(n): os.write(4, b'[\"value\", ' + b'9' * 100000 + b']\\n')",
    "error",
)
endless("a large reply", "def solve(n): return 'a' * 10 ** 7", "output")
endless(
    "a reply without end",
    "import os\ndef solve(n):\n    while True: os.write(4, b'a' * 65536)",
    "output",
)
endless("printing", "def solve(n):\n    while True: print('a' * 1000)", "output")
endless("printing at once", "while True: print('a' * 1000)", "output")
endless(
    "printing errors",
    "import sys\ndef solve(n):\n    while True: sys.stderr.write('a' * 1000)",
    "output",
)
endless("printing, then right", "print('a' * 2_000_000)\ndef solve(n): return n", "output")
endless(
    "filling the disk",
    """
    def solve(n):
        for number in range(1000):
            with open(f"/scratch/{number}", "wb") as file:
                for _ in range(1000): file.write(bytes(1 << 20))
    """,
    "error",
)
endless(
    "many files",
    "def solve(n):\n    for number in range(10 ** 6): open(f'/scratch/{number}', 'w').close()",
    "error",
)
endless("many descriptors", "import os\ndef solve(n):\n    while True: os.pipe()", "error")
endless(
    "a file without a name",
    """
    import os
    def solve(n):
        descriptor = os.open("/scratch", os.O_TMPFILE | os.O_RDWR)
        while True: os.write(descriptor, bytes(1 << 20))
    """,
    "error",
)
