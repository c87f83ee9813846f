"""The judge's side of the pipe to the program."""

import builtins
import os

from keras_textdiff.evaluation.sandbox import remote
from keras_textdiff.evaluation.sandbox.guest import values, wire
from keras_textdiff.evaluation.sandbox.remote import Remote


class ProgramEnded(BaseException):
    """The program's process answers no more. Tests can not catch this as an Exception."""


class ReplyTooLong(BaseException):
    """The program sent more than the limit in one reply."""


class ProgramError(RuntimeError):
    """The program raised something that the tests have no name for."""


class Program:
    """Asks the program's process to do things, and reads what it answers as untrusted data.

    Args:
        requests: int, descriptor to write to.
        replies: int, descriptor to read from.
        max_reply: int, bytes of one reply.
    """

    def __init__(self, requests, replies, *, max_reply):
        self._requests = requests
        self._replies = os.fdopen(replies, "rb")
        self._max_reply = max_reply
        self.last_error = None  # that the program raised, and the tests got
        self._functions = []  # of the tests, by the number under which the program calls them

    def wait(self):
        """Return when the program's interpreter runs."""
        self._receive()

    def load(self, source):
        """Run the program's source."""
        self._exchange(["load", source], remote.PART)

    def look_up(self, name, origin):
        """Return what the program calls `name`, as a `Remote`."""
        found = self._exchange(["look_up", name], origin)
        if type(found) is not Remote:
            raise ProgramError(f"the program did not give {name!r} as an object")
        return found

    def ask(self, operation, *arguments, origin=remote.PART):
        """Return the result of one of the program's side's operations."""
        return self._exchange([operation, *map(self._encode, arguments)], origin)

    def call(self, function, arguments, keywords):
        """Call what a `Remote` stands for."""
        called = remote.reference(function)
        origin = remote.RESULT
        if called.origin == remote.CLASS:
            origin = remote.INSTANCE
        elif called.origin == remote.ENTRY_POINT and called.is_class:
            origin = remote.ENTRY_INSTANCE
        message = ["call", *map(self._encode, (function, arguments, keywords))]
        result = self._exchange(message, origin)
        if origin == remote.INSTANCE and type(result) is not Remote:
            raise remote.Undecidable(
                "a class that the tests name returned plain data, not an instance"
            )
        return result

    def _exchange(self, message, origin):
        self._send(message)
        while True:
            reply = self._receive()
            try:
                kind, *parts = reply
                if kind == "value":
                    (data,) = parts
                    return self._decode(data, origin)
                if kind == "error":
                    error = self._exception(*parts)
                elif kind == "callback":
                    error = None
                    number, *call = parts
                    function = self._functions[number]
                    arguments, keywords = (self._decode(part, remote.PART) for part in call)
                else:
                    raise ValueError("unknown kind")
            except Exception as problem:
                error = ProgramError(f"the program's reply was not understood: {problem}")
            if error is not None:
                self.last_error = error
                raise error
            self._call_back(function, arguments, keywords)

    def _call_back(self, function, arguments, keywords):
        """Call a function of the tests for the program."""
        try:
            result = self._encode(function(*arguments, **keywords))
        except Exception as error:
            name = type(error).__name__
            known = vars(builtins).get(name) is type(error)
            try:
                parts = self._encode(error.args)
            except TypeError:
                parts = self._encode((str(error),))
            self._send(["raised", name if known else "RuntimeError", parts])
        else:
            self._send(["returned", result])

    def _exception(self, names, message, arguments):
        """Return an exception of the first of the names that is Python's own."""
        kinds = [vars(builtins).get(name) for name in names]
        kind = next(
            (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)),
            None,
        )
        if kind is None or kind is Exception:
            # SystemExit and its kin must not get further here than any other exception.
            return (ProgramError if kind is None else Exception)(f"{names[0]}: {message}")
        if issubclass(kind, (StopIteration, StopAsyncIteration)):
            return remote.Exhausted(f"{names[0]}: {message}")
        try:
            return kind(*self._decode(arguments, remote.PART))
        except Exception:  # kinds that want particular arguments, such as UnicodeDecodeError
            return ProgramError(f"{names[0]}: {message}")

    def _encode(self, value):
        return values.encode(value, self._refer)

    def _refer(self, value):
        if type(value) is Remote:
            return ["object", remote.reference(value).number]
        name = getattr(value, "__name__", None)
        if type(name) is str and vars(builtins).get(name) is value:
            # The program has its own. Called here, one like `eval` would be a way in.
            return ["builtin", name]
        if callable(value):
            self._functions.append(value)
            return ["function", len(self._functions) - 1]
        raise TypeError(
            f"tests can pass plain data, functions and the program's own objects to a program. Got "
            f"{type(value).__name__}."
        )

    def _decode(self, data, origin):
        def resolve(tag, parts):
            number, is_class = parts
            if tag != "object" or type(number) is not int:
                raise ValueError("unknown tag")
            return Remote(remote.Reference(self, number, origin, is_class is True))

        return values.decode(data, resolve)

    def _send(self, message):
        try:
            wire.send(self._requests, message)
        except BrokenPipeError:
            raise ProgramEnded from None

    def _receive(self):
        line = self._replies.readline(self._max_reply + 1)
        if len(line) > self._max_reply:
            raise ReplyTooLong
        if not line.endswith(b"\n"):
            raise ProgramEnded
        try:
            return wire.loads(line)
        except (ValueError, RecursionError):
            return ["unreadable"]
