"""Errors that cross a backend which hands on their text alone."""

import contextlib


@contextlib.contextmanager
def error_kept(batches):
    """Keep in `batches.error` what reading a batch raises: tensorflow hands on its text alone."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, StopIteration):
            batches.error = error
        raise
