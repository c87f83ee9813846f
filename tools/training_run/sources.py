"""Sources of rows by what a flag says."""

import pathlib

from keras_textdiff import data

READERS = {".txt": data.text_source, ".jsonl": data.jsonl_source, ".parquet": data.parquet_source}


def open_source(name, template):
    """Return the rows of "python", of a corpus by name, or of files.

    Args:
        name: "python", the standard library; "mc4/en" and the like, see
            `keras_textdiff.data.named_source`; or files, a path or a pattern that ends in .txt,
            .jsonl or .parquet, .xz and .gz behind it.
        template: str, or pair of strings for prompts and responses, see
            `keras_textdiff.data.jsonl_source`; corpora by name have their own.
    """
    if name == "python":
        return data.python_source()
    suffixes = [suffix for suffix in pathlib.PurePath(name).suffixes if suffix in READERS]
    if not suffixes:
        return data.named_source(name)
    if suffixes[-1] == ".txt":
        if not isinstance(template, str):
            raise ValueError(f"Prompts and responses need fields: .jsonl or .parquet. Got {name}.")
        return data.text_source(name)
    return READERS[suffixes[-1]](name, template=template)


def parse_weights(texts, count):
    """Return one float per source, or None."""
    if not texts:
        return None
    try:
        weights = [float(text) for text in texts]
    except ValueError:
        raise ValueError(f"--weights are numbers, 0.8,0.2 for example. Got {texts}.") from None
    if len(weights) != count:
        raise ValueError(f"--weights need one number per --data, {count}. Got {len(weights)}.")
    return weights
