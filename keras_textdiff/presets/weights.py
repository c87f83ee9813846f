"""The weights of a preset: every variable there, of its shape and finite, before any is set.

Keras ignores datasets that no variable asks for, and takes NaN for a number.
"""

import contextlib
import re

import h5py
import keras
import ml_dtypes
import numpy as np
from keras.src.saving.file_editor import get_weight_spec_of_saveable

from keras_textdiff.presets.folder import (
    MAXIMUM_INDEX_BYTES,
    TASK_WEIGHTS_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
)

SIGNATURE = b"\x89HDF\r\n\x1a\n"
LFS_POINTER = b"version https://git-lfs"
SHARD = re.compile(r"model_\d{5}\.weights\.h5")
MAXIMUM_GROUP_DEPTH = 32
BLOCK_ELEMENTS = 2**24  # read at a time
FIX = "Save or download the preset again."


def check_weights_files(folder):
    """Return the names of a preset's weights files, each known to be an HDF5 file.

    Args:
        folder: `PresetFolder`.

    Raises:
        ValueError: where weights are missing, in a form that is not read, or cut off.
    """
    single, index = WEIGHTS_FILE in folder, WEIGHTS_INDEX_FILE in folder
    if single == index:
        found = "both" if single else "neither"
        raise ValueError(
            f"{folder.directory} must hold {WEIGHTS_FILE} or {WEIGHTS_INDEX_FILE} with its shards; "
            f"it holds {found}. {FIX}"
        )
    if TASK_WEIGHTS_FILE in folder:
        raise ValueError(
            f"{folder.describe(TASK_WEIGHTS_FILE)}: all weights of a model are in its backbone, so "
            "this file has no place in the preset."
        )
    names = [WEIGHTS_FILE] if single else sorted(set().union(*_weight_map(folder).values()))
    for name in names:
        with _open(folder, name):
            pass
    return names


def check_weights(backbone, folder):
    """Compare a preset's weights with the variables of a backbone.

    Args:
        backbone: `keras_hub.models.Backbone` built from the preset's config.
        folder: `PresetFolder`.

    Raises:
        ValueError: for a variable that is missing, has no place, has another shape, or holds NaN
            or inf; naming it and its file.
    """
    names = check_weights_files(folder)
    expected = variables_by_path(backbone)
    found = {}
    for name in names:
        with _open(folder, name) as file:
            for path, dataset in _datasets(file, folder.describe(name)):
                where = f"{folder.describe(name)}: the variable {path!r}"
                if path in found:
                    raise ValueError(f"{where} is also in {folder.describe(found[path])}. {FIX}")
                if path not in expected:
                    raise ValueError(
                        f"{where} has no place in this {type(backbone).__name__}. These weights "
                        "belong to another model, or config.json was changed."
                    )
                _check_dataset(dataset, expected[path], where)
                found[path] = name
    missing = sorted(set(expected) - set(found))
    if missing:
        raise ValueError(
            f"{', '.join(folder.describe(name) for name in names)}: {len(missing)} of "
            f"{len(expected)} variables are missing, the first one {missing[0]!r}. These weights "
            "belong to another model, or config.json was changed."
        )
    if WEIGHTS_INDEX_FILE in folder:
        _check_weight_map(folder, found)


def load_weights(backbone, folder):
    """Load a preset's weights, which were checked, into a backbone."""
    source = WEIGHTS_INDEX_FILE if WEIGHTS_INDEX_FILE in folder else WEIGHTS_FILE
    try:
        backbone.load_weights(str(folder.path(source)))
    except Exception as error:
        raise ValueError(f"{folder.describe(source)}: cannot be loaded: {error}") from error


def variables_by_path(model):
    """Return what Keras would save of a model: path in the file to a `keras.KerasTensor`."""
    tree = {}
    get_weight_spec_of_saveable(model, tree)
    flat, stack = {}, [("", tree)]
    while stack:
        path, node = stack.pop()
        for key, value in node.items():
            if isinstance(value, dict):
                stack.append((f"{path}{key}/", value))
            else:
                flat[f"{path}vars/{key}"] = value
    return flat


def _weight_map(folder):
    """Return the sharded index: path of a group to the list of its shards' names."""
    where = folder.describe(WEIGHTS_INDEX_FILE)
    index = folder.read_json(WEIGHTS_INDEX_FILE, MAXIMUM_INDEX_BYTES)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{where}: has no 'weight_map' with the shards. {FIX}")
    result = {}
    for path, names in weight_map.items():
        result[path] = names if isinstance(names, list) else [names]
        for name in result[path]:
            if not isinstance(name, str) or not SHARD.fullmatch(name):
                raise ValueError(
                    f"{where}: names the shard {name!r}; shards lie in the preset's folder and "
                    "are called 'model_00000.weights.h5' and so on."
                )
            folder.path(name, source=WEIGHTS_INDEX_FILE)
    return result


def _check_weight_map(folder, found):
    """Raise a ValueError where the index does not say where a variable is."""
    weight_map = _weight_map(folder)
    for path, name in found.items():
        group = f"/{path.rsplit('/', 1)[0]}"
        if name not in weight_map.get(group, ()):
            raise ValueError(
                f"{folder.describe(WEIGHTS_INDEX_FILE)}: does not list {name!r} for {group!r}, "
                f"which is there. {FIX}"
            )


@contextlib.contextmanager
def _open(folder, name):
    """Open an HDF5 file for reading, after a look at its first bytes."""
    path = folder.path(name)
    with open(path, "rb") as file:
        start = file.read(64)
    if start.startswith(LFS_POINTER):
        raise ValueError(
            f"{path}: a git-lfs pointer, not the weights themselves. Run `git lfs pull` in the "
            "folder."
        )
    if not start.startswith(SIGNATURE):
        raise ValueError(f"{path}: not an HDF5 file. It begins with {start[:16]!r}. {FIX}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path}: cut off or damaged: {error}. {FIX}") from error
    with file:
        yield file


@contextlib.contextmanager
def _damage(where):
    """Turn whatever h5py raises on a damaged file into a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{where}: damaged: {error}. {FIX}") from error


def _datasets(file, where):
    """Yield path and dataset of everything in an HDF5 file; links are not followed."""
    seen, stack = set(), [("", file, 0)]
    while stack:
        path, group, depth = stack.pop()
        if depth > MAXIMUM_GROUP_DEPTH:
            raise ValueError(f"{where}: groups nested deeper than {MAXIMUM_GROUP_DEPTH} levels.")
        with _damage(f"{where}: the group {path!r}"):
            links = {key: group.get(key, getlink=True, getclass=True) for key in group}
        for key, link in links.items():
            place = f"{path}{key}"
            if link is not h5py.HardLink:
                raise ValueError(f"{where}: {place!r} is a link, which is not allowed.")
            with _damage(f"{where}: {place!r}"):
                child = group[key]
                is_new = child.id not in seen
                seen.add(child.id)
            if not is_new:
                raise ValueError(f"{where}: {place!r} is in the file under another name too.")
            if isinstance(child, h5py.Group):
                stack.append((f"{place}/", child, depth + 1))
            elif isinstance(child, h5py.Dataset):
                yield place, child
            else:
                raise ValueError(f"{where}: {place!r} is neither a group nor an array.")


def _check_dataset(dataset, variable, where):
    """Raise a ValueError where an array cannot become the variable's value."""
    with _damage(where):
        shape, dtype = tuple(dataset.shape or ()), dataset.dtype
        is_elsewhere = dataset.external or dataset.is_virtual
        is_bfloat16 = dataset.attrs.get("dtype") == "bfloat16"
    if shape != tuple(variable.shape):
        raise ValueError(f"{where} has the shape {shape}; the model needs {variable.shape}.")
    if is_elsewhere:
        raise ValueError(f"{where} is stored in another file, which is not allowed.")
    plain = dtype.kind in "fiub" and not is_bfloat16
    if not plain and not (is_bfloat16 and dtype == np.dtype("V2")):
        raise ValueError(f"{where} has the unknown dtype {dtype}.")
    is_float = dtype.kind in "fV"
    if is_float != keras.backend.is_float_dtype(variable.dtype):
        raise ValueError(
            f"{where} has the dtype {dtype}; the model needs {variable.dtype}. Weights "
            "and config.json differ in their quantization."
        )
    if not is_float:
        return
    limit = float(ml_dtypes.finfo(variable.dtype).max)
    for start, block in _blocks(dataset, where):
        block = block.view(ml_dtypes.bfloat16) if is_bfloat16 else block
        if block.dtype not in ("float32", "float64"):
            block = block.astype("float32")
        largest = min(limit, np.finfo(block.dtype).max)
        if -largest <= block.min() and block.max() <= largest:  # False for NaN
            continue
        position = np.unravel_index(int(np.argmin(np.abs(block) <= largest)), block.shape)
        position = [start + position[0], *position[1:]] if position else []
        raise ValueError(
            f"{where} holds NaN, inf or a number beyond {variable.dtype}, first at "
            f"{[int(index) for index in position]}. {FIX}"
        )


def _blocks(dataset, where):
    """Yield the first index and the values of parts of a dataset, a bounded amount at a time."""
    if dataset.ndim == 0:
        with _damage(where):
            block = np.asarray(dataset[()])
        yield 0, block
        return
    rows = max(1, BLOCK_ELEMENTS // max(1, int(np.prod(dataset.shape[1:]))))
    for start in range(0, dataset.shape[0], rows):
        with _damage(where):
            block = dataset[start : start + rows]
        yield start, block
