"""Benchmarks of Python programming: how a model is asked, and where its answer ends."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class CodeFormat:
    """A benchmark's layout.

    Attributes:
        file: str, the benchmark's file as its authors call it.
        keys: tuple of str, what a problem must have.
        prompt: str, default template of the prompt.
        fields: callable from a problem to the fields of the template.
        cut: callable from what a model wrote to the part that belongs to the program.
    """

    file: str
    keys: tuple
    prompt: str
    fields: Callable
    cut: Callable


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


def _mbpp_fields(problem):
    # The sanitized problems have "prompt" where the others have "text".
    text = problem["text"] if "text" in problem else problem["prompt"]
    return {**problem, "text": text, "tests": "\n".join(problem["test_list"])}


FORMATS = {
    "mbpp": CodeFormat(
        file="MBPP's mbpp.jsonl or sanitized-mbpp.json",
        keys=("task_id", "code", "test_list"),
        prompt='"""\n{text}\n{tests}\n"""\n',
        fields=_mbpp_fields,
        cut=lambda text: cut(unfence(text), _AFTER_PROGRAM),
    ),
    "human_eval": CodeFormat(
        file="HumanEval.jsonl.gz",
        keys=("task_id", "prompt", "canonical_solution", "test", "entry_point"),
        prompt="{prompt}",
        fields=dict,
        cut=lambda text: cut(text, _AFTER_BODY),
    ),
}
