"""A folder of checkpoints: each one whole, checksummed and on disk, or not there."""

import hashlib
import json
import os
import pathlib
import re
import shutil

import keras
import numpy as np

from keras_textdiff.utils.orbax import import_orbax
from keras_textdiff.utils.processes import process_index_and_count

FORMAT = 2
MANIFEST = "manifest.json"
NAME = re.compile(r"step_\d{10}_epoch_\d{6}")
UNFINISHED = ".unfinished_"


class CheckpointFolder:
    """Writes, checks and reads checkpoints of arrays and a JSON value.

    A checkpoint is a folder that Orbax wrote and a manifest with the SHA-256 of every file. It is
    written under another name, forced to disk, and renamed: what has its name is whole.

    Args:
        path: str or path of the folder; made when the first checkpoint is written.
        max_to_keep: int, how many checkpoints stay; older ones are deleted.
    """

    def __init__(self, path, max_to_keep):
        self.path = pathlib.Path(path).absolute()
        self.max_to_keep = max_to_keep

    def names(self):
        """Return the checkpoints' names, oldest first; they sort by step."""
        if not self.path.exists():
            return []
        return sorted(entry.name for entry in self.path.iterdir() if NAME.fullmatch(entry.name))

    def remove_unfinished(self):
        """Delete what a run that died left half written or half deleted."""
        for entry in self.path.glob(f"{UNFINISHED}*"):
            shutil.rmtree(entry)

    def write(self, name, arrays, run):
        """Write a checkpoint; on return it is on disk.

        Args:
            name: str, see `checkpoint_name`.
            arrays: dict of dicts of NumPy arrays.
            run: JSON value.

        Raises:
            FloatingPointError: for an array with NaN or inf, which is named; nothing is written.
            Exception: whatever went wrong on the way; nothing is left behind.
        """
        _check_finite(arrays, run["names"])
        self.path.mkdir(parents=True, exist_ok=True)
        unfinished = self.path / f"{UNFINISHED}{name}"
        try:
            _save_with_orbax(unfinished, arrays, run)
            files = {path: _digest(unfinished / path) for path in _files(unfinished)}
            manifest = {"format": FORMAT, "name": name, "files": files}
            text = json.dumps({**manifest, "digest": _digest_of(manifest)}, indent=1)
            (unfinished / MANIFEST).write_text(text, encoding="utf-8")
            _force_to_disk(unfinished)
        except BaseException:
            for leftover in self.path.glob(f"{UNFINISHED}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            raise
        if (self.path / name).exists():  # one that could not be restored
            self._delete(name)
        os.rename(unfinished, self.path / name)
        _fsync(self.path)

    def delete_old(self, invalid=()):
        """Keep the newest `max_to_keep`, not counting those in `invalid`."""
        valid = [name for name in self.names() if name not in invalid]
        oldest = valid[-self.max_to_keep :][:1]
        for name in self.names():
            if oldest and name < oldest[0]:
                self._delete(name)

    def _delete(self, name):
        # Renamed first, so that a half deleted checkpoint is never taken for a damaged one.
        doomed = self.path / f"{UNFINISHED}deleted_{name}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(self.path / name, doomed)
        shutil.rmtree(doomed)

    def newest_valid(self):
        """Return the newest valid checkpoint's name or None, and why newer ones are not valid.

        Returns:
            str or None, and a dict from names to reasons.
        """
        problems = {}
        for name in reversed(self.names()):
            problem = self.problem(name)
            if problem is None:
                return name, problems
            problems[name] = problem
        return None, problems

    def problem(self, name):
        """Return what is wrong with a checkpoint, or None."""
        folder = self.path / name
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest.pop("digest") != _digest_of(manifest):
                return f"{MANIFEST} does not match its own checksum"
            if manifest["format"] != FORMAT:
                return f"its format is {manifest['format']}, and {FORMAT} is what can be read"
            if manifest["name"] != name:
                return f"it was written as {manifest['name']}"
            found = set(_files(folder)) - {MANIFEST}
            for path in sorted(found ^ set(manifest["files"])):
                return f"{path} is {'not part of it' if path in found else 'missing'}"
            for path, digest in manifest["files"].items():
                if _digest(folder / path) != digest:
                    return f"{path} does not match its checksum"
        except FileNotFoundError as error:
            return f"{pathlib.Path(error.filename).name} is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return f"it cannot be read ({type(error).__name__}: {error})"
        return None

    def read(self, name):
        """Return the arrays and the JSON value of a checkpoint without a problem."""
        orbax = import_orbax()
        with _checkpointer(orbax) as checkpointer:
            restored = checkpointer.restore(
                self.path / name,
                args=orbax.args.Composite(
                    arrays=orbax.args.PyTreeRestore(), run=orbax.args.JsonRestore()
                ),
            )
        return restored["arrays"], restored["run"]


def checkpoint_name(step, epoch):
    """Return the name of the checkpoint after `step` steps, in epoch `epoch`."""
    return f"step_{step:010d}_epoch_{epoch:06d}"


def _checkpointer(orbax):
    """Return a checkpointer that waits for no other process."""
    options = {}
    index, count = process_index_and_count()
    if count > 1 and keras.config.backend() == "jax":  # Orbax knows of jax's processes alone
        options["multiprocessing_options"] = orbax.options.MultiprocessingOptions(
            primary_host=index,
            active_processes={index},
            barrier_sync_key_prefix=f"keras_textdiff_{index}",
        )
    handler = orbax.CompositeCheckpointHandler(
        arrays=orbax.PyTreeCheckpointHandler(**options),
        run=orbax.JsonCheckpointHandler(**options),
        composite_options=orbax.CompositeOptions(**options),
    )
    return orbax.Checkpointer(handler, **options)


def _save_with_orbax(path, arrays, run):
    orbax = import_orbax()
    with _checkpointer(orbax) as checkpointer:
        checkpointer.save(
            path,
            args=orbax.args.Composite(
                arrays=orbax.args.PyTreeSave(arrays), run=orbax.args.JsonSave(run)
            ),
        )


def _check_finite(arrays, names):
    for group, members in arrays.items():
        if group == "metrics":  # a step that was skipped may have had an infinite loss
            continue
        for key, array in members.items():
            if array.dtype.kind not in "iub" and not np.isfinite(array).all():
                name = names[group][int(key)] if group in names else f"a callback's {key}"
                raise FloatingPointError(name)


def _files(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    )


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _force_to_disk(folder):
    for path in [*folder.rglob("*"), folder]:
        _fsync(path)


def _fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
