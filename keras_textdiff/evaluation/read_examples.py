"""Rows of evaluation data from local files."""

import gzip
import json
import lzma
import os
import pathlib

_OPEN = {".xz": lzma.open, ".gz": gzip.open}


def read_examples(source, what="the data"):
    """Return examples as a list of dicts.

    Args:
        source: a list of dicts, returned as it is; or the path of a file, plain, ".gz" or
            ".xz": JSON lines, a JSON list, or SQuAD's JSON, which gives one dict of "id",
            "context", "question" and "answers" (a list of strings) per question.
        what: str, what the file should hold, for the error where it is missing.

    Returns:
        List of dicts.

    Raises:
        ValueError: for a missing file, or one that holds anything else; says where.

    Example:
    ```python
    examples = keras_textdiff.evaluation.read_examples("squad/dev-v1.1.json")
    ```
    """
    if isinstance(source, (str, os.PathLike)):
        where = pathlib.Path(source).expanduser()
        examples = _read_file(where, what)
    else:
        where, examples = "the list", source
    if not isinstance(examples, (list, tuple)):
        raise ValueError(
            f"Examples are a list of dicts or the path of a file. Got {type(examples).__name__}."
        )
    for index, example in enumerate(examples):
        if not isinstance(example, dict):
            raise ValueError(
                f"Every example must be a dict. Got {type(example).__name__} at position {index} "
                f"of {where}."
            )
    if not examples:
        raise ValueError(f"There is nothing to evaluate on: no example in {where}.")
    return list(examples)


def check_keys(examples, keys, what):
    """Raise a ValueError that names the first example without one of `keys`."""
    for index, example in enumerate(examples):
        missing = [key for key in keys if key not in example]
        if missing:
            raise ValueError(
                f"An example for {what} needs {list(keys)}. Example {index} lacks {missing}; it "
                f"has {sorted(map(str, example))}."
            )


def _read_file(path, what):
    if not path.is_file():
        raise ValueError(f"No file at {path.absolute()}. Put {what} there, or pass another path.")
    try:
        with _OPEN.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
            text = file.read()
    except (OSError, EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if ".jsonl" not in path.suffixes:
        tree = _parse(text, path)
        return _flatten(tree, path) if isinstance(tree, dict) else tree
    lines = enumerate(text.split("\n"), start=1)  # strings may hold other line separators
    return [_parse(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _parse(text, where):
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}). Name JSON lines '.jsonl'.") from error


def _flatten(tree, path):
    """Return one example per question of SQuAD's JSON."""
    try:
        return [
            {
                "id": question["id"],
                "context": paragraph["context"],
                "question": question["question"],
                "answers": [answer["text"] for answer in question["answers"]],
            }
            for article in tree["data"]
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: a JSON object must have SQuAD's layout, data / paragraphs / qas / answers. "
            f"Failed at {error}. Other data goes into a JSON list or JSON lines."
        ) from error
