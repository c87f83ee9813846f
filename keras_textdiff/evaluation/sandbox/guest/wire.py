"""Lines of JSON, without the `json` module.

Importing that takes as long as starting the interpreter, because it compiles regular expressions;
this uses the parts in C that it is made of, and no more.
"""

import os
from _json import encode_basestring_ascii, make_scanner


class _Options:
    """What the scanner wants to know."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name):
        raise ValueError(f"{name} is not JSON")


_scan = make_scanner(_Options)
_WORDS = {None: "null", True: "true", False: "false"}


def dumps(data):
    """Return None, booleans, strings, numbers, lists, tuples or dicts of them as JSON."""
    kind = type(data)
    if kind is str:
        return encode_basestring_ascii(data)
    if kind is list or kind is tuple:
        return f"[{','.join(map(dumps, data))}]"
    if kind is dict:
        return f"{{{','.join(f'{dumps(key)}:{dumps(value)}' for key, value in data.items())}}}"
    if kind is int or kind is float:
        return repr(data)
    return _WORDS[data]


def loads(line):
    """Return what a line of JSON says; ValueError or RecursionError where it is none."""
    line = line.decode().strip()
    try:
        value, end = _scan(line, 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    if end != len(line):
        raise ValueError("more than one value")
    return value


def send(descriptor, data):
    """Write a line."""
    line = dumps(data).encode() + b"\n"
    while line:
        line = line[os.write(descriptor, line) :]
