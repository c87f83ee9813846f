"""A file of JSON lines, one for each logged step, that a resumed run goes on with."""

import json
import math
import os
import pathlib


def read_run_log(path):
    """Read a log that `RunLog` wrote.

    Args:
        path: str or path of the file.

    Returns:
        List of dicts, in the order of their "step"; see `RunLog` for what is in them. A last line
        that was cut off when its process was killed is left out.

    Raises:
        ValueError: for a file that is missing or is no such log, naming the line.

    Example:
    ```python
    lines = keras_textdiff.training.read_run_log("runs/1/log.jsonl")
    losses = [line["loss"] for line in lines]
    ```
    """
    return [line for line, _ in _read(pathlib.Path(path))]


def _read(path):
    """Return pairs of a line and the position behind it."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"A run log cannot be read at {str(path)!r}: {error.strerror}. Pass the file that a "
            "RunLog callback wrote."
        ) from error
    pairs, end = [], 0
    for number, row in enumerate(text.split(b"\n")[:-1], start=1):  # the last is empty, or cut
        end += len(row) + 1
        try:
            line = json.loads(row)
            step = line["step"]
            if not isinstance(step, int) or (pairs and step <= pairs[-1][0]["step"]):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{str(path)!r} is no run log: line {number} is {row[:60]!r}, and a line is a JSON "
                "object with a 'step' above that of the line before. Pass another file."
            ) from None
        pairs.append((line, end))
    return pairs


class RunLogFile:
    """Appends lines, and takes back those that a resumed run writes again.

    Args:
        path: str or path; its folder is made. Lines that are there stay until `go_to` or `append`.

    Raises:
        ValueError: for a path that cannot be written, or a file that is no run log.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")  # noqa: SIM115 (closed by `close`)
        except OSError as error:
            raise ValueError(
                f"A run log cannot be written at {str(path)!r}: {error.strerror}. Pass a file in "
                "a folder that can be written to."
            ) from error
        try:
            self._ends = [(line["step"], end) for line, end in _read(self.path)]
            self._last = None
        except ValueError:
            self.close()
            raise

    @property
    def last_step(self):
        """The step of the last line, 0 without one."""
        return self._ends[-1][0] if self._ends else 0

    def go_to(self, step):
        """Drop the lines of later steps, and what is left of a cut line; return how many lines.

        A run that goes back to its start leaves the old file beside it, with ".old" at its end.
        """
        kept = [(s, end) for s, end in self._ends if s <= step]
        num_dropped = len(self._ends) - len(kept)
        if num_dropped and step == 0:
            self._file.close()
            os.replace(self.path, f"{self.path}.old")
            self._file = open(self.path, "ab")  # noqa: SIM115
        self._ends = kept
        self._file.truncate(kept[-1][1] if kept else 0)
        return num_dropped

    def append(self, line):
        """Write the line of the next logged step."""
        row = json.dumps({name: _finite(value) for name, value in line.items()}).encode() + b"\n"
        self._file.write(row)
        self._file.flush()
        self._ends.append((line["step"], (self._ends[-1][1] if self._ends else 0) + len(row)))
        self._last = line

    def update_last(self, entries):
        """Add entries to the last line."""
        line = self._last or _read(self.path)[-1][0]
        self._ends.pop()
        self._file.truncate(self._ends[-1][1] if self._ends else 0)
        self.append({**line, **entries})

    def close(self):
        """Close the file."""
        self._file.close()


def _finite(value):
    """Return a number as JSON can hold it: None for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
