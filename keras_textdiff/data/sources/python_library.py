"""Python source that every machine has: its standard library."""

import ast
import hashlib
import pathlib
import sysconfig
import textwrap
import warnings

import grain

from keras_textdiff.data.sources.files import read_text
from keras_textdiff.utils.checks import check_choice

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}
HELD_OUT = 26  # of 256 values of a byte: a tenth of the files


def python_source(*, part="train", unit="file"):
    """Read the Python source of this machine's standard library, without its tests.

    Args:
        part: "train", "held_out" (a tenth of the files, the same ones everywhere) or "all".
        unit: "file", or "function" for each function and method; equal ones count once.

    Returns:
        `grain.MapDataset` of rows `{"text": str}`, in the order of the files' names.

    Raises:
        ValueError: for another part or unit, or a Python installed without its source.

    Example:
    ```python
    source = keras_textdiff.data.python_source(unit="function")
    ```
    """
    check_choice("part", part, ("train", "held_out", "all"))
    check_choice("unit", unit, ("file", "function"))
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    paths = [
        path
        for path in sorted(root.rglob("*.py"))
        if not SKIPPED & {*path.relative_to(root).parts} and path.stat().st_size
    ]
    if part != "all":
        paths = [
            path for path in paths if _is_held_out(path.relative_to(root)) == (part == "held_out")
        ]
    if not paths:
        raise ValueError(f"There are no Python files in {root}; install Python with its source.")
    if unit == "file":
        return grain.MapDataset.source(paths).map(lambda path: {"text": read_text(path)})
    functions = dict.fromkeys(text for path in paths for text in _functions(read_text(path)))
    return grain.MapDataset.source(list(functions)).map(lambda text: {"text": text})


def _is_held_out(path):
    return hashlib.blake2b(path.as_posix().encode()).digest()[0] < HELD_OUT


def _functions(source):
    """Yield the source of each function of a module, decorators included, moved to the left."""
    try:
        with warnings.catch_warnings():  # of old escapes in strings
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min(part.lineno for part in (node, *node.decorator_list))
            yield textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
