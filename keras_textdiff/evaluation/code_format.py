"""Benchmarks of Python programming: what their problems look like, and what answers become."""

import ast
import builtins
import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class CodeFormat:
    """A benchmark's layout.

    Attributes:
        keys: tuple of str, what a problem must have.
        prompt: str, default template of the prompt.
        fields: callable from a problem to the fields of the template.
        program: callable `(problem, prompt, completion)` to the program to test.
        tests: callable from a problem to a list of assert statements.
        entry_point: callable from a problem to the name of the function that is tested.
    """

    keys: tuple
    prompt: str
    fields: Callable
    program: Callable
    tests: Callable
    entry_point: Callable


# What begins a line behind the end of a function's body (Chen et al. 2021, section 3.2).
_AFTER_BODY = ("class ", "class:", "def ", "#", "if ", "print", "@", "assert ", "```")
# What begins a line behind a whole program; it may have several functions.
_AFTER_PROGRAM = ("if __name__", "print", "assert ", '"""', "```", "[DONE]")


def cut(text, stops):
    """Return `text` up to the first line, but the first, that begins with one of `stops`."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if index and line.startswith(stops):
            return "\n".join(lines[:index])
    return text


def unfence(text):
    """Return the inside of the first Markdown code block, or all of a text without one."""
    parts = text.split("```")
    if len(parts) == 1:
        return text
    language, _, code = parts[1].partition("\n")
    if len(parts) == 2 and not language.strip().isalnum():
        return parts[0]  # a single fence without a language closes what the prompt began
    return code


def called_function(test):
    """Return the name of the function that a test calls: one that is not Python's own, if any."""
    names = [
        node.func.id
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    if not names:
        raise ValueError(f"the test calls no function: {test!r}.")
    return next((name for name in names if not hasattr(builtins, name)), names[0])


def _mbpp_fields(problem):
    # The sanitized problems have "prompt" where the others have "text".
    text = problem["text"] if "text" in problem else problem["prompt"]
    return {**problem, "text": text, "tests": "\n".join(problem["test_list"])}


def _mbpp_program(problem, prompt, completion):
    setup = [*problem.get("test_imports", []), problem.get("test_setup_code", "")]
    code = cut(unfence(completion), _AFTER_PROGRAM)
    return "\n".join([*filter(None, setup), code])


def _human_eval_program(problem, prompt, completion):
    return problem["prompt"] + cut(completion, _AFTER_BODY) + "\n" + problem["test"]


FORMATS = {
    "mbpp": CodeFormat(
        keys=("task_id", "test_list"),
        prompt='"""\n{text}\n{tests}\n"""\n',
        fields=_mbpp_fields,
        program=_mbpp_program,
        tests=lambda problem: list(problem["test_list"]),
        entry_point=lambda problem: called_function(problem["test_list"][0]),
    ),
    "human_eval": CodeFormat(
        keys=("task_id", "prompt", "test", "entry_point"),
        prompt="{prompt}",
        fields=dict,
        program=_human_eval_program,
        tests=lambda problem: [f"assert check({problem['entry_point']}) is None"],
        entry_point=lambda problem: problem["entry_point"],
    ),
}
