"""Writes checkpoints in a thread, one at a time."""

import threading


class BackgroundWriter:
    """A context manager; on leaving, what is being written is finished.

    Args:
        folder: `CheckpointFolder`.
        skipped: names of checkpoints that are invalid.
    """

    def __init__(self, folder, skipped):
        self._folder = folder
        self._skipped = skipped
        self._thread = None
        self._outcome = None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.wait()

    def start(self, name, arrays, run):
        """Begin to write a checkpoint; none may be under way."""
        self._thread = threading.Thread(
            target=self._write, args=(name, arrays, run), name="checkpoint", daemon=True
        )
        self._thread.start()

    def _write(self, name, arrays, run):
        try:
            self._folder.write(name, arrays, run)
            self._folder.delete_old(self._skipped)
        except Exception as error:
            self._outcome = (name, error)
        else:
            self._outcome = (name, None)

    def outcome(self):
        """Return `(name, error or None)` of a checkpoint that came to its end, once; or None."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread, outcome, self._outcome = None, self._outcome, None
        return outcome

    def wait(self):
        """Return `outcome()` after what is being written."""
        if self._thread is not None:
            self._thread.join()
        return self.outcome()
