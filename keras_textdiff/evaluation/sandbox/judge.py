"""Runs the tests against a program that lives in another process, and says what came of each."""

import builtins
import sys

from keras_textdiff.evaluation.sandbox import remote
from keras_textdiff.evaluation.sandbox.program import ProgramEnded, ReplyTooLong

_MESSAGE_LENGTH = 500
_ONLY_TREE = 0x400  # ast.PyCF_ONLY_AST
# Fields of syntax nodes that bind a name.
_DEFINING = {
    "FunctionDef": ("name",),
    "AsyncFunctionDef": ("name",),
    "ClassDef": ("name",),
    "ExceptHandler": ("name",),
    "arg": ("arg",),
    "alias": ("name", "asname"),
}


def compile_tests(tests):
    """Return the tests as code objects, or raise the SyntaxError of one that is not Python."""
    return [compile(test, f"<test {i}>", "exec", dont_inherit=True) for i, test in enumerate(tests)]


def judge(program, source, tests, entry_point, report):
    """Load a program and run tests against it.

    Args:
        program: `Program`.
        source: str, the program.
        tests: list of str, Python statements; what one defines, the next ones see.
        entry_point: str, what of the program the tests are about.
        report: callable `(status, message)`, called for each test as soon as it has ended; the
            status "ended" says that the program's process did.

    A name that the tests use is, in this order, what they define, the entry point, Python's own, a
    module of the standard library, or a class that the program defines. Nothing else of the program
    can be named: a function of its own would be a witness in its own case.
    """
    codes = compile_tests(tests)
    names = {"__name__": "tests"}

    def prepare():
        program.load(source)
        names.update(_find(program, tests, entry_point))

    status, message = _run(program, prepare, "")
    usable = status == "pass"
    if not usable:
        report(status, message)  # as what came of the first test
    for index, code in enumerate(codes):
        if usable:
            status, message = _run(program, lambda code=code: exec(code, names), tests[index])
            report(status, message)
            usable = status != "ended"
        elif index:
            report("not run", "")


def _find(program, tests, entry_point):
    """Return the values of the names that tests use and do not define, but Python's own."""
    used, defined = set(), set()
    for test in tests:
        _collect_names(compile(test, "<test>", "exec", _ONLY_TREE), used, defined)
    found = {entry_point: program.look_up(entry_point, remote.ENTRY_POINT)}
    for name in sorted(used - defined - set(dir(builtins)) - {entry_point}):
        if name in sys.stdlib_module_names:
            found[name] = __import__(name)
            continue
        value = program.look_up(name, remote.CLASS)
        if not remote.reference(value).is_class:
            raise NameError(
                f"the tests use {name!r}, which they do not define. Of a program, tests can name "
                "the entry point and classes"
            )
        found[name] = value
    return found


def _collect_names(node, used, defined):
    """Add the names in a syntax tree; walks it without `ast`, which takes long to import."""
    if type(node).__name__ == "Name":
        (used if type(node.ctx).__name__ == "Load" else defined).add(node.id)
    for field in getattr(node, "_fields", ()):
        value = getattr(node, field, None)
        if field in _DEFINING.get(type(node).__name__, ()) and value:
            defined.add(value.partition(".")[0])
        for child in value if isinstance(value, list) else [value]:
            _collect_names(child, used, defined)


def _run(program, action, source):
    """Return the status of an action of the tests, and a message."""
    try:
        action()
    except ProgramEnded:
        return "ended", ""
    except ReplyTooLong:
        return "output", "the program returned more than the limit"
    except MemoryError:
        return "memory", "MemoryError"
    except BaseException as error:
        own = isinstance(error, AssertionError) and error is not program.last_error
        return "fail" if own else "error", _describe(error, source)
    return "pass", ""


def _describe(error, source):
    """Return an exception in a line, with the line of the test that raised it."""
    try:
        message = str(error)
    except Exception:  # it may hold an object of the program
        message = ""
    line = ""
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename.startswith("<test"):
            line = source.splitlines()[place.tb_lineno - 1].strip()
        place = place.tb_next
    parts = [type(error).__name__, message, line]
    return ": ".join(filter(None, parts))[:_MESSAGE_LENGTH]
