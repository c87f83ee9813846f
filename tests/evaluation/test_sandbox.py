import concurrent.futures
import pathlib
import re

import pytest

from keras_textdiff.evaluation import Sandbox, SandboxUnavailable
from keras_textdiff.evaluation.sandbox import seccomp, syscalls
from tests.evaluation import sandbox_landlock, sandbox_orphans, sandbox_refusal
from tests.evaluation.sandbox_users import USERS, run_as

pytestmark = pytest.mark.backend_free

HEADERS = [
    pathlib.Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    pathlib.Path("/usr/include/asm-generic/unistd.h"),
]
ADD = "def solve(a, b):\n    return a + b"


@pytest.fixture(scope="module")
def sandbox():
    try:
        return Sandbox(wall_seconds=10)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def run(sandbox):
    def run(program, *tests, entry_point="solve"):
        return sandbox.run(program, list(tests), entry_point=entry_point)

    return run


def test_pass(run):
    result = run(ADD, "assert solve(1, 2) == 3", "assert solve('a', 'b') == 'ab'")
    assert (result.status, result.message, result.output) == ("pass", "", "")
    assert [(test.status, test.message) for test in result.tests] == [("pass", "")] * 2
    assert 0 < result.seconds < 10


def test_each_test_has_its_outcome(run):
    result = run(
        ADD,
        "assert solve(1, 2) == 3",
        "x = 2\nassert solve(1, x) == 4",
        "solve(1)",
        "assert x == 2",
    )
    assert [test.status for test in result.tests] == ["pass", "fail", "error", "pass"]
    assert result.status == "fail"
    assert result.message == "AssertionError: assert solve(1, x) == 4"
    assert "missing 1 required positional argument: 'b': solve(1)" in result.tests[2].message


@pytest.mark.parametrize(
    "program, test, status",
    [
        ("def solve(", "solve()", "error"),
        ("raise ValueError('at once')", "solve()", "error"),
        ("x = 1", "solve()", "error"),
        ("solve = 3", "solve()", "error"),
        ("def solve(): return input()", "solve()", "error"),
        ("def solve(): raise MemoryError", "solve()", "memory"),
        ("def solve(): return 1", "[0] * 10 ** 10", "memory"),
        ("def solve(): return 1", "raise SystemExit(0)", "error"),
        ("def solve(): return 1", "assert undefined(solve())", "error"),
        ("def solve(): import numpy", "solve()", "error"),
        ("def solve(): return '\ud800'", "solve()", "error"),
        ("def solve(): return 1\nif __name__ == '__main__': 1 / 0", "assert solve() == 1", "pass"),
        ("def solve():\n    try: [0] * 10 ** 10\n    except MemoryError: return 1",
         "assert solve() == 1", "pass"),
        ("from math import sqrt as solve", "assert solve(4) == 2.0", "pass"),
        ("solve = lambda n: n and n + solve(n - 1)", "assert solve(900) == 405450", "pass"),
        ("def sum(a, b): return a * b\nsolve = sum", "assert sum([2, solve(3, 4)]) == 14", "pass"),
    ],
)  # fmt: skip
def test_status(run, program, test, status):
    result = run(program, test)
    assert result.status == status, result.message


def test_what_is_printed_comes_back(run):
    result = run("print('loaded')\ndef solve(): print('é', end='')", "solve()")
    assert (result.status, result.output) == ("pass", "loaded\né")


def test_the_end_of_the_program_is_said(run):
    result = run("import os\ndef solve(): os._exit(7)", "solve()", "solve()")
    assert [test.status for test in result.tests] == ["error", "not run"]
    assert result.message == "the program's process ended with exit code 7"


def test_no_time_is_left_for_later_tests(sandbox):
    sandbox = Sandbox(wall_seconds=1)
    result = sandbox.run(
        ADD, ["assert solve(1, 1) == 2", "while True: pass", "solve(1, 1)"], entry_point="solve"
    )
    assert [test.status for test in result.tests] == ["pass", "timeout", "not run"]
    assert result.status == "timeout"
    assert result.seconds >= 0.9  # clocks of CPU time and of the wall differ a little


def test_cpu_seconds_of_all_threads_count(sandbox):
    sandbox = Sandbox(wall_seconds=60, cpu_seconds=1)
    program = """
import threading
def burn():
    while True: pass
def solve():
    threading.Thread(target=burn).start()
    burn()
"""
    result = sandbox.run(program, ["solve()"], entry_point="solve")
    assert (result.status, result.message) == ("timeout", "more than 1.0 s of CPU time")


LIMITS = """
import os, threading
def threads(number):
    event = threading.Event()
    made = [threading.Thread(target=event.wait) for _ in range(number)]
    try:
        for thread in made: thread.start()
    except RuntimeError:
        return False
    finally:
        event.set()
    return True
def memory(number): return len(bytearray(number << 20)) > 0
def written(number):
    with open("file", "wb") as file: file.write(bytes(number << 20))
    return True
def files(number): return len([open(str(n), "w") for n in range(number)]) > 0
def output(number):
    print("a" * (number << 10))
    return True
"""


@pytest.mark.parametrize(
    "option, low, high, name, status",
    [
        ("num_threads", 2, 20, "threads", "fail"),
        ("memory_mb", 64, 200, "memory", "memory"),
        ("file_mb", 2, 8, "written", "error"),
        ("num_files", 20, 60, "files", "error"),
        ("output_kb", 2, 8, "output", "output"),
    ],
)
def test_limits(sandbox, option, low, high, name, status):
    """What is too much under a low limit is none under a higher one."""
    test = [f"assert {name}({high // 2 if option != 'memory_mb' else 100})"]
    assert Sandbox(**{option: low}).run(LIMITS, test, entry_point=name).status == status
    assert Sandbox(**{option: high}).run(LIMITS, test, entry_point=name).status == "pass"


VALUES = """
import collections, datetime, decimal, fractions
values = [
    None, True, 0, -1, 2**53, -2**200, 0.1, -0.0, 1e308, 5e-324, float("inf"), 3 - 4j, -0j, "",
    "é\\n\\x00\\"\\\\", "\\ud800", "\\ud83d\\ude00", b"\\x00\\xff", bytearray(b"a"),
    [], [1, (2.0, {3: {4}, "5": [None]})], (1,), set(), {1, 2.5}, frozenset([(1, 2)]), {(1, 2): []},
    range(3), range(9, 0, -2), slice(1, None, 2), ..., NotImplemented, int, dict, ValueError,
    {1: 2}.keys(), {1: 2}.items(), collections.Counter("aab"), collections.OrderedDict(b=1, a=2),
    collections.defaultdict(None, a=1), collections.deque([1, 2], 3), collections.deque([1]),
    decimal.Decimal("1.10"), fractions.Fraction(1, 3), datetime.date(2024, 2, 29),
    datetime.datetime(2024, 1, 1, 3, tzinfo=datetime.timezone.utc), datetime.timedelta(1, 2, 3),
    datetime.time(1, 2, 3),
]
"""


def test_values_come_back_of_exact_type(run):
    check = """
for value in values:
    result = solve(value)
    assert type(result) is type(value) and result == value and repr(result) == repr(value), value
import math
assert math.isnan(solve(float("nan")))
counts = solve(collections.defaultdict(int))
counts["new"] += 1
assert counts == {"new": 1}
"""
    result = run("def solve(value): return value", VALUES + check)
    assert result.status == "pass", result.message
    assert run("def solve(): return 1.0", "assert type(solve()) is int").status == "fail"
    assert run("def solve(): return True", "assert solve() is True").status == "pass"


def test_arguments_are_copies(run):
    program = "def solve(values):\n    values.append(1)\n    return values"
    test = "values = []\nassert solve(values) == [1] and values == []"
    assert run(program, test).status == "pass"


def test_values_of_a_subclass_are_judged_by_their_content(run):
    program = """
import collections, enum
class Color(enum.IntEnum):
    RED = 1
Point = collections.namedtuple("Point", "x y")
class Odd(int):
    def __eq__(self, other): return False
def solve(): return [Point(1, 2), Color.RED, Odd(3)]
"""
    assert run(program, "assert solve() == [(1, 2), 1, 3]").status == "pass"


def test_objects_of_the_program(run):
    program = """
class Node:
    def __init__(self, value):
        self.value, self.next = value, None
    def __str__(self): return f"<{self.value}>"
    def add(self, other): return self.value + other
def solve(node):
    values = []
    while node:
        values.append(node.value)
        node = node.next
    return values
"""
    tests = [
        "first = Node(1)\nfirst.next = Node([2])\nfirst.next.next = Node('c')",
        "assert solve(first) == [1, [2], 'c']",
        "first.next.next.value = 3\nassert solve(first)[-1] == 3 and first.next.value == [2]",
        "assert str(first) == '<1>' and first.add(4) == 5",
        "try:\n    first.other\n    assert False\nexcept AttributeError:\n    pass",
    ]
    result = run(program, *tests)
    assert result.status == "pass", result.message


def test_a_class_as_entry_point(run):
    program = """
class Stack:
    def __init__(self): self.values = []
    def push(self, value): self.values.append(value)
    def pop(self): return self.values.pop()
    def is_empty(self): return not self.values
"""
    tests = [
        "stack = Stack()\nassert stack.is_empty()",
        "stack.push(1)\nstack.push({2})\nassert stack.pop() == {2} and not stack.is_empty()",
        "stack.pop()\ntry:\n    stack.pop()\n    assert False\n"
        "except IndexError as error:\n    assert str(error) == 'pop from empty list'",
    ]
    result = run(program, *tests, entry_point="Stack")
    assert result.status == "pass", result.message


def test_functions_cross_both_ways(run):
    program = """
def solve(function, *values):
    try:
        return [function(value) for value in values]
    except KeyError as error:
        return error.args
def adder(n): return lambda m: n + m
"""
    tests = [
        "assert solve(lambda n: n + 1, 1, 2) == [2, 3]",
        "assert solve(str, 1) == ['1'] and solve(len, 'ab') == [2]",
        "import operator\nassert solve(operator.neg, 1) == [-1]",
        "def find(n): raise KeyError(n)\nassert solve(find, 7) == (7,)",
        "def nested(n): return n and solve(nested, n - 1)\nassert solve(nested, 3) == [[[[0]]]]",
    ]
    result = run(program, *tests)
    assert result.status == "pass", result.message
    assert run(program, "assert adder(2)(3) == 5", entry_point="adder").status == "pass"


def test_iterators_are_read_as_they_come(run):
    program = "import itertools\ndef solve(n): return itertools.count(n)"
    test = "counted = solve(3)\nassert next(counted) == 3 and 6 in counted and next(counted) == 7"
    assert run(program, test).status == "pass"
    program = "def solve(n): yield from range(n)"
    test = "assert list(solve(3)) == [0, 1, 2] and sum(solve(4)) == 6 and [*solve(0)] == []"
    assert run(program, test).status == "pass"


def test_exceptions_keep_their_type(run):
    program = """
class Own(LookupError): pass
errors = KeyError("k"), Own("o"), UnicodeDecodeError("a", b"b", 0, 1, "c"), OSError(2, "no")
def solve(n): raise errors[n]
"""
    test = """
for number, kind in enumerate((KeyError, LookupError, UnicodeDecodeError, FileNotFoundError)):
    try:
        solve(number)
    except kind as error:
        assert number or error.args == ("k",)
    else:
        assert False
"""
    result = run(program, test)
    assert result.status == "pass", result.message


def test_the_standard_library_works(run):
    program = """
import asyncio, bz2, concurrent.futures, csv, dataclasses, decimal, hashlib, json, lzma, random, re
import sqlite3, ssl, statistics, tempfile, uuid, xml.etree.ElementTree, zlib, zoneinfo
@dataclasses.dataclass
class Point:
    x: "int"
async def wait():
    await asyncio.sleep(0.001)
    return 3
def solve():
    with tempfile.NamedTemporaryFile() as file, sqlite3.connect(":memory:") as connection:
        file.write(b"a")
        connection.execute("create table a(b)")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        values = list(pool.map(abs, [-1, 2]))
    return asyncio.run(wait()), values, hashlib.sha256(b"").hexdigest()[:4], Point(1).x
"""
    tests = [
        "import hashlib, sqlite3\nassert hashlib.sha256(b'').hexdigest()[:4] == solve()[2]",
        "assert solve() == (3, [1, 2], 'e3b0', 1)",
    ]
    result = run(program, *tests)
    assert result.status == "pass", result.message


def test_threads_may_share_a_sandbox(run):
    def one(number):
        program = f"def solve(n): return n + {number}"
        return run(program, f"assert solve(1) == {number + 1}", "assert solve(0) == 5").tests

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        results = list(pool.map(one, range(12)))
    for number, tests in enumerate(results):
        assert [test.status for test in tests] == ["pass", "pass" if number == 5 else "fail"]


def test_bad_arguments(sandbox):
    for options, text in (
        ({"wall_seconds": 0}, "wall_seconds"),
        ({"memory_mb": 1}, "at least 64"),
        ({"output_kb": 1.5}, "integer"),
    ):
        with pytest.raises(ValueError, match=text):
            Sandbox(**options)
    for program, tests, entry_point, text in (
        (b"", ["solve()"], "solve", "program"),
        (ADD, "assert solve(1, 2) == 3", "solve", "list"),
        (ADD, [3], "solve", "list"),
        (ADD, [], "solve", "empty"),
        (ADD, ["solve()"], "solve()", "name of a function"),
        (ADD, ["assert solve("], "solve", "SyntaxError"),
        (ADD, ["\0"], "solve", "null bytes"),
    ):
        with pytest.raises(ValueError, match=text):
            sandbox.run(program, tests, entry_point=entry_point)


@pytest.mark.parametrize("user", USERS)
def test_refuses_where_it_can_not_isolate(sandbox, user):
    process = run_as(user, sandbox_refusal.__file__)
    assert process.returncode == 0, process.stderr
    first, second = process.stdout.splitlines()
    for line in (first, second):
        assert line.startswith("refused: The program was not run: [Errno 28] unshare(")
        assert "user.max_user_namespaces" in line


@pytest.mark.parametrize("user", USERS)
def test_nothing_outlives_the_caller(sandbox, user):
    process = run_as(user, sandbox_orphans.__file__, timeout=100)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [f"{name}: none left" for name in ("KILL", "TERM", "INT")]


def test_landlock_alone_holds(tmp_path):
    """It stands behind the read-only mounts, which would otherwise hide a mistake in it."""
    folders = [tmp_path / "open", tmp_path / "closed"]
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_text("as it was")
    process = run_as(USERS[0], sandbox_landlock.__file__, *map(str, folders))
    assert process.returncode == 0, process.stderr
    done = dict(line.split(": ") for line in process.stdout.splitlines() if ": " in line)
    if not done:
        pytest.skip(process.stdout)
    allowed = {"read", "list", "write in the open folder", "make in the open folder"}
    assert {name for name, result in done.items() if result == "done"} == allowed
    assert (folders[1] / "file").read_text() == "as it was"


@pytest.mark.skipif(not HEADERS[0].exists(), reason="the kernel's headers are not installed")
@pytest.mark.parametrize("column", [0, 1], ids=syscalls.MACHINES)
def test_system_calls_have_the_kernels_numbers(column):
    pattern = r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)"
    numbers = {
        name: int(number) for name, number in re.findall(pattern, HEADERS[column].read_text())
    }
    for name, pair in (seccomp.ALLOWED | seccomp.CONDITIONAL).items():
        # Of the generic table some are named otherwise.
        named = {"newfstatat": "fstatat"}.get(name, name) if column else name
        if pair[column] is None:
            assert named not in numbers
        else:
            assert numbers[named] == pair[column], name
