"""What the judge holds of an object that stays in the program's process."""

# What tests may do with an object that came from the program, by how they came by it.
ENTRY_POINT = "the entry point"
CLASS = "a class of the program"  # named by the tests, to make arguments
RESULT = "a result of the program"
INSTANCE = "an instance of a class that the tests name"
ENTRY_INSTANCE = "an instance of the entry point"
METHOD = "a method"
PART = "a part of a result"
_CALLABLE = {ENTRY_POINT, CLASS, RESULT, METHOD}

# Methods of Python's own types that ask about a value. An entry point that should be a function
# could be a class whose instances pass for such a type, and answer what the test wants to hear.
_QUESTIONS = {"startswith", "endswith", "find", "rfind", "index", "rindex", "count"} | {
    name for kind in (str, set, float) for name in dir(kind) if name.startswith("is")
}


class Undecidable(TypeError):
    """A test asks the program's own object for a verdict."""


class Exhausted(RuntimeError):
    """The program raised StopIteration. Outside of `next` that must not end a loop of the tests."""


class Reference:
    """Which object a `Remote` stands for.

    Args:
        program: `Program` that has it.
        number: int, its name there.
        origin: how the tests came by it, one of the above.
        is_class: bool, whether it is a class; so the program says.
    """

    def __init__(self, program, number, origin, is_class):
        self.program = program
        self.number = number
        self.origin = origin
        self.is_class = is_class


def reference(remote):
    """Return the `Reference` of a `Remote`, whose attributes are those of the program's object."""
    return object.__getattribute__(remote, "_remote")


def _ask(remote, operation, *arguments, origin=PART):
    return reference(remote).program.ask(operation, remote, *arguments, origin=origin)


def _refuse(*_):
    raise Undecidable(
        "the tests compare an object of the program's own, which would decide itself whether it is "
        "right"
    )


class Remote:
    """An object of no type that could be sent as data.

    Tests may read its attributes, items, length and truth, iterate over it, print it, set its
    attributes and pass it back to the program: all of that moves data one way or the other, without
    telling the program what is expected, and the data that arrives is judged here. What the object
    may not do is decide. Comparisons and arithmetic are refused, because the program would answer
    them, knowing the expected value; so are calls of methods, but on instances of classes that the
    tests themselves name.
    """

    __slots__ = ("_remote",)

    def __init__(self, target):
        object.__setattr__(self, "_remote", target)

    def __call__(self, /, *arguments, **keywords):
        """Call the object, where its answer can be judged."""
        origin = reference(self).origin
        if origin not in _CALLABLE:
            raise Undecidable(f"the tests call {origin}, whose answer would not be judged")
        return reference(self).program.call(self, arguments, keywords)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        origin = reference(self).origin
        methods = origin == INSTANCE or (origin == ENTRY_INSTANCE and name not in _QUESTIONS)
        return _ask(self, "get", name, origin=METHOD if methods else PART)

    def __setattr__(self, name, value):
        _ask(self, "set", name, value)

    def __getitem__(self, index):
        return _ask(self, "item", index)

    def __len__(self):
        return _ask(self, "length")

    def __bool__(self):
        return _ask(self, "truth")

    def __iter__(self):
        return _ask(self, "iterate")

    def __next__(self):
        try:
            return _ask(self, "next")
        except Exhausted:
            raise StopIteration from None

    def __str__(self):
        return _ask(self, "string")

    def __repr__(self):
        return _ask(self, "representation")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse
