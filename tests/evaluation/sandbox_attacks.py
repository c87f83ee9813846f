"""Programs that try to pass without solving the task.

Each attack is a program, tests and the statuses that are right. `sandbox_floods` adds programs that
use up the machine, `sandbox_reaches` those that reach out of the sandbox.
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
        for top in ("/scratch", "/dev/shm", "/tmp", "/proc", "/python/guest", "/old", "/root"):
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

# --- forgeries: late, and by way of what the tests pass ------------------------------------------

attack(
    "answers of dying objects",
    r"""
    import atexit, os
    class Dying:
        def __del__(self): os.write(4, b'["value", true]\n')
    kept = Dying()
    atexit.register(os._exit, 0)
    def solve(*a): return 0
    """,
)
attack(
    "an evaluator that the tests pass",
    """def solve(evaluate): return evaluate('next(v for v in vars().values() if v == 41)')""",
    ["secret = 41\nassert solve(eval) == secret"],
)
attack(
    "guessed functions of the tests",
    """
    from keras_textdiff.evaluation.sandbox.guest import wire
    def solve(function):
        for number in range(10):
            wire.send(4, ["callback", number, ["tuple", 1], ["dict"]])
        return 0
    """,
    ["assert solve(lambda n: 1) == 1"],
)
attack(
    "an exception that ends as it is read",
    """
    class Evil(Exception):
        def __str__(self): raise SystemExit(0)
    def solve(*a): raise Evil
    """,
)
attack(
    "right by waiting for the question",
    """
    class Answer:
        def __init__(self): self.asked = 0
        def __bool__(self):
            self.asked += 1
            return self.asked > 1
    answer = Answer()
    def solve(*a): return answer
    """,
    ["assert solve(1)"],
)
