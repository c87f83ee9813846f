"""Programs that try to pass without solving the task, to get out, to use up the machine or to stay.

Each attack is a program, tests and the statuses that are right. FORGERIES must never pass. ENDLESS
ones must end in time, as named. The functions of REACHES return what they got hold of: here "pass"
means nothing.
"""

import textwrap
from typing import NamedTuple

# Names and keys by which traces on the host are recognised.
TRACE = "keras_textdiff_sandbox_trace"
IPC_KEY = 0x5AFE5AFE

NOT_PASSED = ("fail", "error")


class Attack(NamedTuple):
    program: str
    tests: tuple
    expected: tuple
    entry_point: str = "solve"


ATTACKS = {}
ADD = ("assert solve(1, 2) == 3", "assert solve(20, 22) == 42")


def attack(name, program, tests=ADD, expected=NOT_PASSED, entry_point="solve"):
    assert name not in ATTACKS
    ATTACKS[name] = Attack(textwrap.dedent(program), tuple(tests), expected, entry_point)


# --- forgeries: how a process ends and what it prints -------------------------------------------

attack("exit 0 at once", "import os\nos._exit(0)")
attack("exit 0 in a call", "import os\ndef solve(*a): os._exit(0)")
attack("sys.exit at once", "import sys\nsys.exit(0)")
attack("SystemExit in a call", "def solve(*a): raise SystemExit(0)")
attack(
    "markers",
    """
    import sys
    for line in ("PASS", "pass", "OK", "1 passed", '{"status": "pass"}', '{"finished": true}'):
        print(line)
        print(line, file=sys.stderr)
    def solve(*a):
        print('{"outcome": ["pass", ""]}')
    """,
)
attack(
    "forged reports on every descriptor",
    r"""
    import os
    lines = b'{"outcome":["pass",""]}\n{"outcome":["pass",""]}\n{"finished":true}\n'
    for number in [*range(3), *range(5, 64)]:
        try:
            os.write(number, lines)
        except OSError:
            pass
    def solve(*a): return 0
    """,
)
attack(
    "forged verdicts as replies",
    r"""
    import os
    for line in (b'["outcome", "pass", ""]', b'["value", true]', b'["finished"]', b'["pass"]'):
        os.write(4, line + b"\n")
    def solve(*a): return 0
    """,
)
attack(
    "answers before the questions",
    r"""
    import os
    os.write(4, b'["value", ["object", 0, false]]\n' + b'["value", true]\n' * 500)
    def solve(*a): return 0
    """,
)
attack("closed pipes", "import os\nos.closerange(0, 64)\ndef solve(*a): return 3")
attack(
    "another interpreter in its place",
    r"""
    import os, sys
    code = "import os\nwhile os.read(3, 65536): os.write(4, b'[\"value\", true]\\n')"
    os.write(4, b'["value", null]\n["value", ["object", 0, true]]\n')
    os.execv("/python/bin/python", ["python", "-I", "-S", "-c", code])
    """,
)
attack(
    "killing all it can see",
    """
    import os, signal
    for target in (-1, 0, 1, 2, os.getppid(), os.getpid()):
        try:
            os.kill(target, signal.SIGKILL)
        except OSError:
            pass
    def solve(*a): return True
    """,
)

# --- forgeries: values that claim to be right ---------------------------------------------------

EVIL = """
class Evil:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 3
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__
    def __bool__(self): return True
    def __sub__(self, other): return self
    __add__ = __radd__ = __rsub__ = __mul__ = __abs__ = __round__ = __getitem__ = __sub__
    def __call__(self, *a, **k): return self
    def __getattr__(self, name): return self
"""


def evil(name, body, tests=ADD, base=EVIL, **options):
    attack(name, base + textwrap.dedent(body), tests, **options)


evil("always equal", "def solve(*a): return Evil()")
evil("always equal, in a list", "def solve(*a): return [Evil()]", ["assert solve(1) == [1]"])
evil("always equal, as a key", "def solve(*a): return {Evil(): 1}", ["assert solve(1) == {3: 1}"])
evil("always equal, in a set", "def solve(*a): return {Evil()}", ["assert solve(1) == {3}"])
evil("always equal, on the right", "def solve(*a): return Evil()", ["assert 3 == solve(1)"])
evil("never unequal", "def solve(*a): return Evil()", ["assert not solve(1) != 3"])
evil("always less", "def solve(*a): return Evil()", ["assert solve(1) < 0.1"])
evil("close to everything", "def solve(*a): return Evil()", ["assert abs(solve(1) - 3) < 1e-6"])
evil(
    "close to everything, by math", "def solve(*a): return Evil()",
    ["import math\nassert math.isclose(solve(1), 3)"],
)  # fmt: skip
evil("rounds to everything", "def solve(*a): return Evil()", ["assert round(solve(1), 2) == 3"])
evil("contains everything", "def solve(*a): return Evil()", ["assert 3 in solve(1)"])
evil("is in everything", "def solve(*a): return Evil()", ["assert solve(1) in (1, 2, 3)"])
evil("starts with anything", "def solve(*a): return Evil()", ["assert solve(1).startswith('a')"])
evil("is a digit", "class solve(Evil):\n    def __init__(self, *a): pass",
     ["assert solve(1).isdigit()"])  # fmt: skip
evil("a class that starts with anything", "class solve(Evil):\n    def __init__(self, *a): pass",
     ["assert solve(1).startswith('a')"])  # fmt: skip
evil("is everything", "class solve(Evil):\n    def __init__(self, *a): pass", ADD)
for kind in ("int", "float", "str", "list", "tuple", "dict", "set", "complex", "bytes"):
    attack(
        f"always equal {kind}",
        f"""
        class Evil({kind}):
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            __hash__ = {kind}.__hash__
        def solve(*a): return Evil()
        """,
    )
attack(
    "a class that is equal to all",
    """
    class Meta(type):
        def __eq__(cls, other): return True
        __hash__ = type.__hash__
    class Evil(metaclass=Meta): pass
    def solve(*a): return Evil
    """,
    ["assert solve(1) == int"],
)
attack(
    "claims to be an int",
    """
    class Evil:
        @property
        def __class__(self): return int
        def __eq__(self, other): return True
    def solve(*a): return Evil()
    """,
    ["value = solve(1, 2)\nassert isinstance(value, int) and value == 3"],
)
attack(
    "equal instances of a class that the tests name",
    """
    class Point:
        def __init__(self, *a): pass
        def __eq__(self, other): return True
    def solve(*a): return Point()
    """,
    ["assert solve(1, 2) == Point(1, 2)"],
)
attack(
    "the same instance for all",
    """
    class Point:
        only = None
        def __new__(cls, *a):
            cls.only = cls.only or object.__new__(cls)
            return cls.only
    def solve(*a): return Point(0, 0)
    """,
    ["assert solve(1, 2) == Point(1, 2)"],
)
attack(
    "an escape from a string",
    r"""def solve(*a): return '3"]\n["value", 3]\n'""",
)
attack(
    "tags that are none of its business",
    r"""
    import os
    tags = ["type", "exec"], ["type", "__import__"], ["function", 0], ["Popen", "true"], ["os", 1]
    def solve(*a):
        import keras_textdiff.evaluation.sandbox.guest.wire as wire
        for tag in tags:
            wire.send(4, ["value", tag])
    """,
)
attack(
    "callbacks nobody offered",
    r"""
    import os
    def solve(*a):
        for number in (0, -1, 1 << 70, "0", None):
            os.write(4, f'["callback", {number!r}, ["tuple"], ["dict"]]\n'.encode())
    """,
)

# --- forgeries: changing what judges ------------------------------------------------------------

attack(
    "patched assert",
    """
    import builtins
    class Never(Exception): pass
    builtins.AssertionError = Never
    def solve(*a): return 0
    """,
)
attack(
    "patched built-ins",
    """
    import builtins
    for name in ("all", "any", "len", "sorted", "isinstance", "abs", "bool", "set"):
        setattr(builtins, name, lambda *a, **k: True)
    def solve(*a): return 0
    """,
    ["assert all(solve(n, n) == 2 * n for n in (1, 2))", "assert abs(solve(1, 1)) == 2"],
)
attack(
    "shadowed built-ins",
    """
    def all(*a): return True
    abs = len = sorted = set = all
    def solve(*a): return 0
    """,
    ["assert all([solve(1, 2) == 3])", "assert set([solve(1, 2)]) == set([3])"],
)
attack(
    "patched modules",
    """
    import math, sys
    math.isclose = lambda *a, **k: True
    sys.modules["math"] = math
    def solve(*a): return 0
    """,
    ["import math\nassert math.isclose(solve(1, 2), 3)", "assert math.isclose(solve(1, 2), 3)"],
)
attack(
    "a helper of its own as witness",
    """
    def is_right(*a): return True
    def solve(*a): return 0
    """,
    ["assert is_right(solve(1, 2), 3)"],
)
attack(
    "a class as witness",
    """
    class is_right:
        def __new__(cls, *a): return True
    def solve(*a): return 0
    """,
    ["assert is_right(solve(1, 2), 3)"],
)
attack(
    "a constant as witness",
    "EXPECTED = 0\ndef solve(*a): return EXPECTED",
    ["assert solve(1, 2) == EXPECTED"],
)
attack(
    "inputs changed under the test",
    "def solve(values):\n    values.clear()\n    return []",
    ["values = [3, 1, 2]\nassert solve(values) == sorted(values)"],
)
attack(
    "a loop of the test cut short",
    "def solve(*a): raise StopIteration",
    ["assert all(map(lambda n: solve(n, n) == 2 * n, range(5)))", "assert [*map(solve, (1,))]"],
)
attack("its own AssertionError", "def solve(*a): raise AssertionError", expected=("error",))
attack(
    "patched server",
    """
    import gc, sys
    from keras_textdiff.evaluation.sandbox.guest import serve, values, wire
    wire.dumps = lambda message: '["value", true]'
    values.encode = lambda value, refer: True
    serve.Server.perform = lambda self, *a: True
    def solve(*a): return 0
    """,
)

# --- forgeries: stealing the tests --------------------------------------------------------------

SECRET = 837465123
STOLEN = (f"assert solve(7) == {SECRET}", f"assert solve(8) == {SECRET}")

attack(
    "frames",
    """
    import sys, inspect
    def solve(*a):
        frame = sys._getframe()
        while frame is not None:
            seen = repr((frame.f_locals, frame.f_globals, frame.f_code.co_consts))
            at = seen.find("assert solve(" + "7) == ")
            if at >= 0:
                return int(seen[at:].split("==")[1].split("'")[0])
            frame = frame.f_back
    """,
    STOLEN,
)
attack(
    "all objects",
    f"""
    import gc
    digits = "{str(SECRET)[:5]}" + "{str(SECRET)[5:]}"
    def solve(*a):
        for thing in gc.get_objects():
            if type(thing) in (list, tuple, dict) and thing is not globals():
                for part in thing:
                    if type(part) is str and "assert" in part and digits in part:
                        return int(digits)
    """,
    STOLEN,
)
attack(
    "arguments, environment, modules, files",
    """
    import os, sys
    wanted = "assert solve(" + "7)"
    def solve(*a):
        texts = [repr(sys.argv), repr(os.environ), repr(vars(sys.modules["__main__"]))]
        for top in ("/work", "/dev/shm", "/tmp", "/proc", "/python/guest", "/old", "/root", "/home"):
            for folder, _, names in os.walk(top):
                for name in names:
                    try:
                        texts.append(open(os.path.join(folder, name), errors="replace").read())
                    except OSError:
                        pass
        for text in texts:
            if wanted in text:
                return int(text.split(wanted)[1].split("==")[1].split()[0])
    """,
    STOLEN,
)
attack(
    "raw memory",
    """
    import ctypes
    wanted = b"assert solve(" + b"7) == "
    def solve(*a):
        start = id(object()) & ~0xFFF
        for page in range(-256, 256):
            try:
                data = ctypes.string_at(start + page * 4096, 4096)
            except Exception:
                continue
            at = data.find(wanted)
            if at >= 0:
                return int(data[at + len(wanted):].split(b"\\0")[0])
    """,
    STOLEN,
    expected=("fail", "error"),
)
attack(
    "inherited descriptors",
    """
    import os
    wanted = b"assert solve(" + b"7) == "
    def solve(*a):
        for number in [*range(3), *range(5, 64)]:
            try:
                os.set_blocking(number, False)
                data = os.read(number, 1 << 20)
            except OSError:
                continue
            if wanted in data:
                return int(data.split(wanted)[1].split(b'"')[0])
    """,
    STOLEN,
)

# --- endless and endlessly large ----------------------------------------------------------------

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
    "import threading\ndef solve(n):\n    lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()",
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
    "def solve(n): return {i * ((1 << 61) - 1) for i in range(1, 3)}"
    " and dict.fromkeys(i * ((1 << 61) - 1) for i in range(12000)).keys()",
    ("timeout", "fail", "output"),
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
endless("a reply without end",
        "import os\ndef solve(n):\n    while True: os.write(4, b'a' * 65536)", "output")  # fmt: skip
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
            with open(f"/work/{number}", "wb") as file:
                for _ in range(1000): file.write(bytes(1 << 20))
    """,
    "error",
)
endless(
    "many files",
    "def solve(n):\n    for number in range(10 ** 6): open(f'/work/{number}', 'w').close()",
    "error",
)
endless("many descriptors", "import os\ndef solve(n):\n    while True: os.pipe()", "error")
