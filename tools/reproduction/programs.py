"""Programming tasks of the kind of MBPP's, made by a small grammar, for models that are small.

Each task describes a function in a sentence, and its solution composes what the sentence names:
steps of arithmetic on a number, methods of a string, a pipeline over a list, or a choice. Which
operations are combined decides whether a task is for training or held out, so no held-out task's
combination was trained on with whatever constants or names.
"""

import functools
import hashlib

from keras_textdiff.utils import random

NAMES = [
    *("solve", "compute", "work", "apply", "build", "check", "convert", "count", "derive"),
    *("evaluate", "find", "get", "handle", "make", "measure", "obtain", "process", "produce"),
    *("reckon", "run", "select", "shape", "treat", "update"),
]

# Name: (what the sentence says, the expression around x, whether it takes a constant).
NUMBER_STEPS = {
    "add": ("adds {c}", "{x} + {c}"),
    "subtract": ("subtracts {c}", "{x} - {c}"),
    "multiply": ("multiplies by {c}", "{x} * {c}"),
    "remainder": ("takes the remainder by {c}", "{x} % {c}"),
    "divide": ("divides by {c}", "{x} // {c}"),
    "square": ("squares it", "{x} ** 2"),
    "negate": ("negates it", "-{x}"),
    "absolute": ("takes the absolute value", "abs({x})"),
    "least": ("takes at least {c}", "max({x}, {c})"),
    "most": ("takes at most {c}", "min({x}, {c})"),
}
STRING_STEPS = {
    "upper": ("makes it upper case", "{x}.upper()"),
    "lower": ("makes it lower case", "{x}.lower()"),
    "title": ("makes it title case", "{x}.title()"),
    "reverse": ("reverses it", "{x}[::-1]"),
    "first": ("keeps the first {c} letters", "{x}[:{c}]"),
    "last": ("keeps the last {c} letters", "{x}[-{c}:]"),
    "skip": ("drops the first {c} letters", "{x}[{c}:]"),
    "twice": ("repeats it {c} times", "{x} * {c}"),
    "swap": ("swaps the case", "{x}.swapcase()"),
    "strip": ("strips spaces", "{x}.strip()"),
}
FILTERS = {
    "all": ("", ""),
    "even": ("keeps the even numbers, ", " if x % 2 == 0"),
    "odd": ("keeps the odd numbers, ", " if x % 2 == 1"),
    "positive": ("keeps the positive numbers, ", " if x > 0"),
    "negative": ("keeps the negative numbers, ", " if x < 0"),
    "above": ("keeps the numbers above {d}, ", " if x > {d}"),
    "below": ("keeps the numbers below {d}, ", " if x < {d}"),
    "multiple": ("keeps the multiples of {d}, ", " if x % {d} == 0"),
}
REDUCERS = {
    "sum": ("returns the sum", "sum({x})"),
    "list": ("returns the list", "[{x}]"),
    "largest": ("returns the largest or 0", "max(({x}), default=0)"),
    "smallest": ("returns the smallest or 0", "min(({x}), default=0)"),
    "count": ("returns how many differ", "len(set({x}))"),
    "sorted": ("returns them sorted", "sorted({x})"),
}
CONDITIONS = {
    "even": ("n is even", "n % 2 == 0"),
    "odd": ("n is odd", "n % 2 == 1"),
    "positive": ("n is positive", "n > 0"),
    "negative": ("n is negative", "n < 0"),
    "above": ("n is above {d}", "n > {d}"),
    "below": ("n is below {d}", "n < {d}"),
    "multiple": ("n is a multiple of {d}", "n % {d} == 0"),
}
NUMBERS = (-7, -2, 0, 3, 8, 15)
STRINGS = ("Hello", "aBc dE", " left right ", "x", "Python code")
LISTS = ([3, -4, 8, 1, 8], [], [12, 7, -9, 5, 0, 6], [2, 4, 9], [-1, -6, 10, 20, 15])


def make_tasks(part, count, *, most_operations=3, seed=0):
    """Return distinct tasks with the keys of MBPP and a reference solution.

    Args:
        part: "train" or "held_out".
        count: int, how many at most.
        most_operations: int, on a number or a string.
        seed: int.

    Returns:
        List of dicts of "task_id", "text", "code" and "test_list".
    """
    generator = random.generator("programs", seed, part)
    kinds = (
        functools.partial(_number, most_operations=most_operations),
        functools.partial(_string, most_operations=most_operations),
        _list,
        _choice,
    )
    tasks, seen = [], set()
    for attempt in range(40 * count):
        if len(tasks) == count:
            break
        combination, sentence, parameter, expression, inputs = kinds[attempt % 4](generator)
        if is_held_out(combination) != (part == "held_out"):
            continue
        name = NAMES[generator.integers(len(NAMES))]
        if (sentence, name) in seen:
            continue
        seen.add((sentence, name))
        code = f"def {name}({parameter}):\n    return {expression}"
        function = _define(code, name)
        tests = [f"assert {name}({value!r}) == {function(value)!r}" for value in inputs]
        text = f"Function {name} {sentence}."
        tasks.append({"task_id": len(tasks), "text": text, "code": code, "test_list": tests})
    return tasks


def is_held_out(combination):
    """Return whether tasks that combine these operations are held out, about an eighth."""
    return hashlib.blake2b("/".join(combination).encode()).digest()[0] < 32


def _define(code, name):
    """Return the function that a solution of ours defines."""
    scope = {}
    exec(code, scope)
    return scope[name]


def _pick(generator, options):
    return list(options)[generator.integers(len(options))]


def _steps(generator, options, variable, count):
    """Compose `count` different steps; return their names, phrases and one expression."""
    names, phrases, expression = [], [], variable
    while len(names) < count:
        name = _pick(generator, options)
        if name in names:
            continue
        phrase, template = options[name]
        constant = int(generator.integers(2, 8))
        if expression != variable and not expression.endswith((")", "]")):
            expression = f"({expression})"
        phrases.append(phrase.format(c=constant))
        expression = template.format(x=expression, c=constant)
        names.append(name)
    return names, phrases, expression


def _number(generator, most_operations):
    count = generator.integers(1, most_operations + 1)
    names, phrases, expression = _steps(generator, NUMBER_STEPS, "n", count)
    sentence = f"takes a number n, {', '.join(phrases)} and returns it"
    return ["number", *names], sentence, "n", expression, NUMBERS


def _string(generator, most_operations):
    count = generator.integers(1, most_operations + 1)
    names, phrases, expression = _steps(generator, STRING_STEPS, "s", count)
    sentence = f"takes a string s, {', '.join(phrases)} and returns it"
    return ["string", *names], sentence, "s", expression, STRINGS


def _list(generator):
    names, phrases, expression = _steps(generator, NUMBER_STEPS, "x", generator.integers(0, 2))
    kept, reducer = _pick(generator, FILTERS), _pick(generator, REDUCERS)
    limit = int(generator.integers(3, 8))  # 2 would be the even numbers again
    words, condition = (text.format(d=limit) for text in FILTERS[kept])
    end, template = REDUCERS[reducer]
    items = f"{expression} for x in xs{condition}"
    steps = "".join(phrase + ", " for phrase in phrases)
    sentence = f"takes a list xs, {words}{steps}{end}"
    return ["list", kept, *names, reducer], sentence, "xs", template.format(x=items), LISTS


def _choice(generator):
    condition = _pick(generator, CONDITIONS)
    limit = int(generator.integers(3, 8))  # 2 would be the even numbers again
    words, test = (text.format(d=limit) for text in CONDITIONS[condition])
    names, phrases, first = _steps(generator, NUMBER_STEPS, "n", 1)
    others, other_phrases, second = _steps(generator, NUMBER_STEPS, "n", 1)
    sentence = f"takes a number n, {phrases[0]} if {words}, otherwise {other_phrases[0]}"
    expression = f"{first} if {test} else {second}"
    return ["choice", condition, *names, *others], sentence, "n", expression, NUMBERS
