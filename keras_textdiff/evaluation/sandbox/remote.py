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


class Remote:
    """A reference to an object of no type that could be sent as data.

    Tests may read its attributes, items, length and truth, iterate over it, print it, set its
    attributes and pass it back to the program: all of that moves data one way or the other, without
    telling the program what is expected, and the data that arrives is judged here. What the object
    may not do is decide. Comparisons and arithmetic are refused, because the program would answer
    them, knowing the expected value; so are calls of methods, but on instances of classes that the
    tests themselves name.
    """

    __slots__ = ("_is_class", "_number", "_origin", "_program")

    def __init__(self, program, number, origin, is_class):
        set_own = object.__setattr__
        set_own(self, "_program", program)
        set_own(self, "_number", number)
        set_own(self, "_origin", origin)
        set_own(self, "_is_class", is_class)  # so the program says

    def __call__(self, /, *arguments, **keywords):
        if self._origin not in _CALLABLE:
            raise Undecidable(f"the tests call {self._origin}, whose answer would not be judged")
        return self._program.call(self, arguments, keywords)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        methods = self._origin == INSTANCE or (
            self._origin == ENTRY_INSTANCE and name not in _QUESTIONS
        )
        return self._program.ask("get", self, name, origin=METHOD if methods else PART)

    def __setattr__(self, name, value):
        self._program.ask("set", self, name, value)

    def __getitem__(self, index):
        return self._program.ask("item", self, index)

    def __len__(self):
        return self._program.ask("length", self)

    def __bool__(self):
        return self._program.ask("truth", self)

    def __iter__(self):
        return self._program.ask("iterate", self)

    def __next__(self):
        try:
            return self._program.ask("next", self)
        except Exhausted:
            raise StopIteration from None

    def __str__(self):
        return self._program.ask("string", self)

    def __repr__(self):
        return self._program.ask("representation", self)

    def _refuse(self, *_):
        raise Undecidable(
            "the tests compare an object of the program's own, which would decide itself whether "
            "it is right"
        )

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = _refuse
