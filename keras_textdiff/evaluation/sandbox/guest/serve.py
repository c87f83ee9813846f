"""The loop of the program's process: runs the program, then answers calls to what it defines.

Messages are lines of JSON. In: ["load", source], ["look_up", name], ["call", function, arguments,
keywords], or one of `_OPERATIONS` with its arguments. Out: ["value", value], ["error", names of
the exception's classes, message, arguments], or in the midst of a call ["callback", number,
arguments, keywords], which is answered like a call.

The program shares this process and can change all that happens here. That gains it nothing: what
it knows is what it is called with, and what it sends is taken as a claim, never as a verdict.
"""

import builtins
import os
import sys

from keras_textdiff.evaluation.sandbox.guest import values, wire

_OPERATIONS = {
    "get": getattr,
    "set": setattr,
    "item": lambda value, index: value[index],
    "iterate": iter,
    "next": next,
    "length": len,
    "truth": bool,
    "string": str,
    "representation": repr,
}
_NAME = "program"
_MESSAGE_LENGTH = 500
# Made beforehand: there may be no memory left to make it.
_OUT_OF_MEMORY = b'["error", ["MemoryError"], "", ["tuple"]]\n'


class Server:
    """Answers requests, one at a time; requests may come while a callback is waited for."""

    def __init__(self, requests, replies):
        self.requests = requests
        self.replies = replies
        self.printed = sys.stdout
        self.objects = []  # what the other side refers to by number
        self.names = {}

    def run(self):
        """Answer until the other side goes."""
        while line := self.requests.readline():
            self.answer(wire.loads(line))

    def answer(self, request):
        """Do what a request asks and send what came of it."""
        try:
            try:
                result = self.encode(self.perform(*request))
            except MemoryError:
                raise
            except BaseException as error:  # the program may raise anything, also SystemExit
                self.send(self.describe(error))
            else:
                self.send(["value", result])
        except MemoryError:
            os.write(self.replies, _OUT_OF_MEMORY)

    def perform(self, operation, *arguments):
        """Return the result of one request."""
        if operation == "load":
            return self.load(*arguments)
        if operation == "look_up":
            return self.look_up(*arguments)
        arguments = [self.decode(argument) for argument in arguments]
        if operation == "call":
            function, positional, keywords = arguments
            return function(*positional, **keywords)
        return _OPERATIONS[operation](*arguments)

    def load(self, source):
        """Run the program's source, as a module that can be found by its name."""
        module = type(sys)(_NAME)
        sys.modules[_NAME] = module
        self.names = vars(module)
        exec(compile(source, "<program>", "exec", dont_inherit=True), self.names)

    def look_up(self, name):
        """Return what the program calls `name`."""
        if name not in self.names:
            raise NameError(f"the program does not define {name!r}")
        return _Reference(self.names[name])

    def callback(self, number, arguments, keywords):
        """Call a function of the other side."""
        self.send(["callback", number, self.encode(arguments), self.encode(keywords)])
        while line := self.requests.readline():
            request = wire.loads(line)
            if request[0] == "returned":
                return self.decode(request[1])
            if request[0] == "raised":
                raise getattr(builtins, request[1])(*self.decode(request[2]))
            self.answer(request)
        raise EOFError("the tests have ended")

    def encode(self, value):
        """Return a value for the other side; what has no plain form is kept, and numbered."""
        if type(value) is _Reference:
            return self.refer(value.target)
        return values.encode(value, self.refer)

    def refer(self, value):
        """Keep an object; return its number and whether it is a class."""
        self.objects.append(value)
        return ["object", len(self.objects) - 1, isinstance(value, type)]

    def decode(self, data):
        """Return a value from the other side."""
        return values.decode(data, self.resolve)

    def resolve(self, tag, parts):
        """Return the object or function that the other side refers to."""
        (number,) = parts
        if tag == "object":
            return self.objects[number]
        if tag == "builtin":
            return getattr(builtins, number)
        return lambda *arguments, **keywords: self.callback(number, arguments, keywords)

    def describe(self, error):
        """Return an exception as a message."""
        classes = [base.__name__ for base in type(error).__mro__]
        try:
            message = str(error)[:_MESSAGE_LENGTH]
        except Exception:
            message = ""
        try:
            # Arguments that are plain data; the message alone has to do for others.
            arguments = values.encode(error.args, _refuse)
        except Exception:
            arguments = ["tuple", message]
        return ["error", classes, message, arguments]

    def send(self, message):
        """Write one line, after all that was printed before."""
        self.printed.flush()
        wire.send(self.replies, message)


class _Reference:
    """A value to send as an object, whatever its type."""

    def __init__(self, target):
        self.target = target


def _refuse(value):
    raise TypeError


def main():
    """Serve on the descriptors that the supervisor made."""
    requests, replies = 3, 4
    server = Server(os.fdopen(requests, "rb", closefd=False), replies)
    server.send(["value", "ready"])
    server.run()
