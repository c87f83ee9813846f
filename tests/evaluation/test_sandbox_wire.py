"""What crosses the pipe: JSON like the standard library's, and nothing but listed types."""

import json
import math

import pytest

from keras_textdiff.evaluation.sandbox.guest import values, wire

pytestmark = pytest.mark.backend_free


def refuse(*parts):
    raise ValueError(parts)


@pytest.mark.parametrize(
    "data",
    [None, True, -(2**70), 0.5, "", "é\n\x00\"\\/\u2028😀\ud800", [], [[], ["a", 1]], {"a": [1]}],
)  # fmt: skip
def test_lines_are_json(data):
    assert json.loads(wire.dumps(data)) == data
    assert wire.loads(json.dumps(data).encode()) == data
    assert "\n" not in wire.dumps(data)


@pytest.mark.parametrize(
    "line",
    [b"", b"[", b"[1] [2]", b"NaN", b"-Infinity", b"'a'", b"\xff", b"[1,]", b"nul", b"9" * 5000],
)
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError):
        wire.loads(line)


def test_deep_lines_end(tmp_path):
    with pytest.raises(RecursionError):
        wire.loads(b"[" * 100000)


def test_integers_beyond_doubles_and_digit_limits():
    for value in (2**53, -(2**53), 10**5000):
        assert (
            values.decode(wire.loads(wire.dumps(values.encode(value, refuse)).encode()), refuse)
            == value
        )
    assert math.copysign(1, values.decode(values.encode(-0.0, refuse), refuse)) == -1


@pytest.mark.parametrize(
    "data",
    [
        1.5,
        {},
        [],
        [[]],
        [1],
        ["unknown"],
        ["type", "print"],
        ["type", "exec"],
        ["type", "__import__"],
        ["type", ["list"]],
        ["float", 1],
        ["float", "1_0"],
        ["int", 16],
        ["int", "zz"],
        ["dict", 1],
        ["set", ["list"]],
        ["bytes", "0"],
        ["str", -1],
        ["range", "a"],
        ["Popen", "true"],
        ["Decimal", "x"],
        ["deque", "a"],
        ["complex", "0x1p0"],
    ],
)
def test_nothing_else_is_made(data):
    with pytest.raises((ValueError, TypeError, KeyError, ArithmeticError)):
        values.decode(data, refuse)
