"""Text and JSON lines from local files, compressed or not."""

import bisect
import glob
import gzip
import itertools
import json
import lzma
import mmap
import os
import pathlib
import shutil
import tempfile

import grain
import numpy as np

from keras_textdiff.data.sources.rows import make_source

OPENERS = {".xz": lzma.open, ".gz": gzip.open}


def text_source(paths, *, separator=None):
    """Read documents from text files.

    Args:
        paths: str or path, a pattern such as "corpus/*.txt", or a list of these. Files that end
            in .xz or .gz are decompressed.
        separator: str between the documents of a file ("\\n" for one a line), or None where each
            file is one document. Documents of white space alone are left out.

    Returns:
        `grain.MapDataset` of rows `{"text": str}`. Documents are read when they are asked for.

    Raises:
        FileNotFoundError: where nothing matches.
        ValueError: for an empty separator, or files without a document.

    Example:
    ```python
    source = keras_textdiff.data.text_source("corpus/*.txt", separator="\\n\\n")
    ```
    """
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise ValueError(f"`separator` must be None or a non-empty string. Got {separator!r}.")
    files = find_files(paths)
    if separator is None:
        return grain.MapDataset.source(files).map(lambda path: {"text": read_text(path)})
    return grain.MapDataset.source(_Pieces(files, separator)).map(lambda text: {"text": text})


def jsonl_source(paths, *, template="{text}"):
    """Read rows from files of JSON lines.

    Args:
        paths: see `text_source`; .jsonl, .jsonl.xz and .jsonl.gz.
        template: str that makes a row's text from a record's fields by `str.format`, or a pair
            of these for prompt and response: `("{question}", "{answers[text][0]}")`.

    Returns:
        `grain.MapDataset` of rows `{"text": str}`, or `{"prompts": str, "responses": str}`.

    Raises:
        FileNotFoundError: where nothing matches.
        ValueError: for a bad template or files without a line; while reading, for a line that is
            not a JSON object or has not the template's fields, with file and line.

    Example:
    ```python
    source = keras_textdiff.data.jsonl_source("qa.jsonl.xz", template=("{question}", "{answer}"))
    ```
    """
    return make_source(_JsonRecords(_Pieces(find_files(paths), "\n")), template)


def find_files(paths):
    """Return the files that paths and patterns name, patterns in sorted order."""
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files = []
    for path in map(os.fspath, paths):
        found = [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        if not found:
            raise FileNotFoundError(
                f"There is no file {path!r} (in {os.getcwd()}). Pass the path of a file, or a "
                "pattern that matches some."
            )
        for name in found:
            if not os.path.isfile(name):
                raise ValueError(f"{name!r} is not a file. Pass a pattern for a folder's files.")
        files += found
    return files


def read_text(path):
    """Return the text of a file, decompressed where its name says so."""
    opener = OPENERS.get(pathlib.Path(path).suffix, open)
    with opener(path, "rb") as file:
        return file.read().decode("utf-8", errors="replace")


class PieceFile:
    """Random access to the pieces of a file between separators, without those of white space.

    A plain file is mapped into memory. A compressed one is decompressed into a temporary file
    first, which goes when this object does.

    Args:
        path: str.
        separator: str between pieces.
    """

    def __init__(self, path, separator):
        self.path = path
        self.separator = separator
        opener = OPENERS.get(pathlib.Path(path).suffix)
        with open(path, "rb") if opener is None else tempfile.TemporaryFile() as file:
            if opener is not None:
                with opener(path, "rb") as packed:
                    shutil.copyfileobj(packed, file, 2**20)
                file.flush()
            size = os.fstat(file.fileno()).st_size
            # The mapping outlives the file; nothing cannot be mapped.
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        spans = np.array(list(self._find(size)), dtype="int64")
        self._spans = spans.reshape(-1, 2)  # (pieces, start and end)

    def _find(self, size):
        separator, start = self.separator.encode(), 0
        while start < size:
            end = self._data.find(separator, start)
            end = size if end < 0 else end
            if not self._data[start:end].isspace() and end > start:
                yield start, end
            start = end + len(separator)

    def __len__(self):
        return len(self._spans)

    def __getitem__(self, index):
        start, end = self._spans[index]
        return self._data[start:end].decode("utf-8", errors="replace")

    def __reduce__(self):
        return PieceFile, (self.path, self.separator)


class _Pieces:
    """The pieces of several files in one sequence."""

    def __init__(self, paths, separator):
        self.files = [PieceFile(path, separator) for path in paths]
        self.ends = list(itertools.accumulate(len(file) for file in self.files))
        if not self.ends[-1]:
            raise ValueError(f"There is no text in {paths}.")

    def __len__(self):
        return self.ends[-1]

    def __getitem__(self, index):
        file, place = self.locate(int(index))
        return file[place]

    def locate(self, index):
        """Return the file of a piece and its place there."""
        number = bisect.bisect_right(self.ends, index)
        return self.files[number], index - (self.ends[number - 1] if number else 0)


class _JsonRecords:
    """JSON objects, one in each piece."""

    def __init__(self, pieces):
        self.pieces = pieces

    def __len__(self):
        return len(self.pieces)

    def __getitem__(self, index):
        file, place = self.pieces.locate(index)
        where = f"{file.path}, non-empty line {place + 1}"
        try:
            record = json.loads(file[place])
        except ValueError as error:
            raise ValueError(f"{where}: {error}.") from error
        if not isinstance(record, dict):
            raise ValueError(f"{where}: must be a JSON object. Got {type(record).__name__}.")
        return record
