"""The files of a preset: regular, inside their folder, as they were saved, and readable."""

import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import stat

from keras_textdiff.presets.locate import locate

CONFIG_FILE = "config.json"
METADATA_FILE = "metadata.json"
TASK_FILE = "task.json"
PREPROCESSOR_FILE = "preprocessor.json"
TOKENIZER_FILE = "tokenizer.json"
CHECKSUMS_FILE = "checksums.json"
WEIGHTS_FILE = "model.weights.h5"
WEIGHTS_INDEX_FILE = "model.weights.json"
TASK_WEIGHTS_FILE = "task.weights.h5"
TOKENIZER_ASSETS = "assets/tokenizer"

# What a preset consists of; anything else in its folder is never read.
PRESET_FILE = re.compile(
    r"(config|metadata|task|preprocessor|tokenizer|checksums)\.json"
    r"|(model|task)\.weights\.h5|model\.weights\.json|model_\d{5}\.weights\.h5|assets/.+"
)
WEIGHTS = re.compile(r".*\.weights\.(h5|json)")
MAXIMUM_JSON_BYTES = 16 * 2**20
MAXIMUM_INDEX_BYTES = 64 * 2**20
MAXIMUM_VOCABULARY_BYTES = 256 * 2**20
MAXIMUM_JSON_DEPTH = 32
MAXIMUM_INTEGER = 2**53
HASHED_BYTES = 2**25  # at a time: large, because between two parts a thread waits for its turn


class PresetFolder:
    """A preset's files, each checked before it is opened.

    Args:
        handle: see `locate_preset`.
        has_backbone: bool, whether the folder must hold a backbone, or may hold a preprocessor
            alone.

    Raises:
        ValueError: where a backbone's "config.json" is missing, or a file is not a regular file or
            leaves the folder.

    Example:
    ```python
    config = PresetFolder("my_preset").read_json("config.json")
    ```
    """

    def __init__(self, handle, has_backbone=True):
        self.directory, self._boundary = locate(handle)
        if has_backbone and not os.path.lexists(self.directory / CONFIG_FILE):
            raise ValueError(
                f"{self.directory} has no {CONFIG_FILE}, so it is not a preset. Pass a folder "
                "that `save_to_preset` wrote."
            )
        self.files = sorted(self._list_files())

    def __contains__(self, name):
        return name in self.files

    def describe(self, name):
        """Return how errors name a file."""
        return str(self.directory / name)

    def path(self, name, source=None):
        """Return the path of a file that exists, is regular and lies inside the folder.

        Args:
            name: str, path relative to the folder, with "/".
            source: str or None, the file that names it.
        """
        where = f"{self.describe(source)} names {name!r}" if source else self.describe(name)
        parts = name.split("/") if isinstance(name, str) else [""]
        plain = all(part not in ("", ".", "..") for part in parts)
        if not plain or re.search(r"[\\:\0]", name):
            raise ValueError(
                f"{where}: a preset's files lie inside its folder, named by plain paths."
            )
        full = self.directory / name
        try:
            real = full.resolve(strict=True)
            mode = os.stat(full).st_mode
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"{where}: the file is missing or a broken link. Download or save the preset "
                f"again. ({error})"
            ) from error
        if not real.is_relative_to(self._boundary):
            raise ValueError(
                f"{where}: it is a link to {real}, outside the preset's folder. Replace the link "
                "by the file itself."
            )
        if not stat.S_ISREG(mode):
            raise ValueError(
                f"{where}: not a regular file but a FIFO, a device or a folder. Replace it by the "
                "file itself."
            )
        return full

    def _list_files(self):
        """Check every file of the folder but hidden ones, and yield their names."""

        def fail(error):
            raise ValueError(f"Cannot read {error.filename}: {error.strerror}.") from error

        for parent, directories, files in os.walk(self.directory, onerror=fail):
            directories[:] = [name for name in directories if not name.startswith(".")]
            parent = pathlib.Path(parent)
            links = [name for name in directories if (parent / name).is_symlink()]
            for name in [*files, *links]:
                if not name.startswith("."):
                    name = (parent / name).relative_to(self.directory).as_posix()
                    self.path(name)
                    yield name

    def read_json(self, name, maximum_bytes=MAXIMUM_JSON_BYTES):
        """Return the object in a JSON file.

        Args:
            name: str, path relative to the folder.
            maximum_bytes: int, size that the file may have.

        Raises:
            ValueError: where the file is not a strict JSON object of moderate size and depth.
        """
        path = self.path(name)
        size = path.stat().st_size
        if size > maximum_bytes:
            raise ValueError(f"{path}: {size} bytes, but at most {maximum_bytes} are allowed.")
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: binary data where UTF-8 text with JSON was expected. Save or download "
                "the preset again."
            ) from error
        try:
            value = json.loads(
                text,
                object_pairs_hook=_unique_keys,
                parse_constant=_no_constant,
                parse_float=_finite,
                parse_int=_moderate,
            )
        except RecursionError as error:
            raise ValueError(_too_deep(path)) from error
        except ValueError as error:
            raise ValueError(
                f"{path}: not JSON as a preset may hold it: {error}. Save or download the preset "
                "again."
            ) from error
        if _depth(value) > MAXIMUM_JSON_DEPTH:
            raise ValueError(_too_deep(path))
        if not isinstance(value, dict):
            raise ValueError(f"{path}: must hold a JSON object. Got {type(value).__name__}.")
        return value

    @contextlib.contextmanager
    def checking_weights(self):
        """Compare the weights with "checksums.json" while the context runs, in a thread.

        Raises:
            ValueError: at the end, see `check_checksums`; it goes before what the context raised.
        """
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            check = pool.submit(self.check_checksums, weights=True)
            try:
                yield
            finally:
                check.result()

    def check_checksums(self, weights=None):
        """Compare the files with "checksums.json", where there is one.

        Args:
            weights: bool, whether weights are compared, or all other files; None for both.

        Raises:
            ValueError: for a file that differs, is missing, or is not listed.
        """
        if CHECKSUMS_FILE not in self:
            return
        source = self.describe(CHECKSUMS_FILE)
        expected = self.read_json(CHECKSUMS_FILE)
        fix = f"Save or download the preset again; after an edit on purpose, delete {source}."
        for name in self.files:
            if PRESET_FILE.fullmatch(name) and name != CHECKSUMS_FILE and name not in expected:
                raise ValueError(f"{self.describe(name)} is not listed in {source}. {fix}")
        for name, checksum in expected.items():
            if weights is not None and weights != bool(WEIGHTS.fullmatch(name)):
                continue
            found = file_checksum(self.path(name, source=CHECKSUMS_FILE))
            if found != checksum:
                raise ValueError(
                    f"{self.describe(name)} has the sha256 {found}, but {source} says {checksum}: "
                    f"it was changed or damaged. {fix}"
                )


def file_checksum(path):
    """Return the sha256 of a file in hexadecimal."""
    digest, buffer = hashlib.sha256(), bytearray(HASHED_BYTES)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _unique_keys(pairs):
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {repeated!r} appears twice")
    return result


def _no_constant(name):
    raise ValueError(f"{name} is not a number")


def _finite(text):
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number


def _moderate(text):
    number = int(text) if len(text) < 20 else MAXIMUM_INTEGER + 1
    if abs(number) > MAXIMUM_INTEGER:
        raise ValueError(f"the integer {text[:40]} is out of range")
    return number


def _depth(value):
    """Return how deep lists and dicts are nested, without recursion."""
    depth, level = 0, [value]
    while level:
        level = [
            child
            for item in level
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        depth += 1
    return depth


def _too_deep(path):
    return f"{path}: nested deeper than {MAXIMUM_JSON_DEPTH} levels, which no preset is."
