"""Write presets so that the one before stays whole until the new one is."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import time
import uuid

import keras
import keras_hub
from keras import ops

from keras_textdiff.presets.folder import (
    CHECKSUMS_FILE,
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    PRESET_FILE,
    TASK_FILE,
    TOKENIZER_ASSETS,
    TOKENIZER_FILE,
    file_checksum,
)
from keras_textdiff.presets.locate import previous_directory
from keras_textdiff.utils import processes
from keras_textdiff.utils.checks import check_number

LOCKED_WITHIN = 60  # seconds from making a folder to locking it, with plenty to spare


def save_preset(model, directory, max_shard_size=10, together=True):
    """Save a task or a backbone as a preset that KerasHub reads too, with checksums.

    Low-rank updates (LoRA) are merged into the saved weights. With several processes, all of them
    call it with the same folder; the first one writes, and needs memory for the whole model where
    each holds a part. What it raises, the others do not.

    Args:
        model: `keras_hub.models.Task` or `keras_hub.models.Backbone`.
        directory: str or `pathlib.Path` of a folder that does not exist, is empty, or holds a
            preset, which is replaced once the new one is complete.
        max_shard_size: float, largest size of a weights file in GB; None for one file.
        together: bool, whether all processes call it; False where one alone has the model.

    Raises:
        ValueError: before anything is written, for weights with NaN or inf, or a folder with
            other files.
    """
    if not isinstance(model, (keras_hub.models.Task, keras_hub.models.Backbone)):
        raise ValueError(f"Only tasks and backbones are saved. Got {type(model).__name__}.")
    if max_shard_size is not None:
        check_number("max_shard_size", max_shard_size, minimum=1e-9)
    directory = _check_directory(directory)
    _check_model(model)
    if not together:
        _replace(directory, model, max_shard_size)
        return
    with _whole_weights(model):
        try:
            if processes.is_first_process():
                _replace(directory, model, max_shard_size)
        finally:
            processes.wait_for_all(f"save_preset {directory.name}")


def _replace(directory, model, max_shard_size):
    """Write a preset beside `directory`, and put it in its place."""
    _restore_interrupted(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(directory)
    unfinished = directory.with_name(f".{directory.name}.{uuid.uuid4().hex}")
    unfinished.mkdir()
    with _lock(unfinished):
        try:
            _write(model, unfinished, max_shard_size)
            _flush(unfinished)
            _swap(unfinished, directory)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def _whole_weights(model):
    """Let the first process read weights of which several processes hold parts."""
    split = [variable for variable in model.weights if not processes.is_readable(variable)]
    values = [variable.value for variable in split]
    for variable in split:
        whole = processes.whole_array(variable)
        if processes.is_first_process():
            variable._value = whole
    try:
        yield
    finally:
        for variable, value in zip(split, values, strict=True):
            variable._value = value


def _check_directory(directory):
    """Return the real path of a folder that may be written or replaced."""
    if not isinstance(directory, (str, pathlib.Path)) or not str(directory):
        raise ValueError(f"`directory` must be a string or a path. Got {directory!r}.")
    if re.match(r"[A-Za-z]{2,}:/", str(directory)):
        raise ValueError(
            f"Presets are saved to a local folder. Got {str(directory)!r}. Save locally, then "
            "upload the folder with `keras_hub.upload_preset`."
        )
    directory = pathlib.Path(directory).expanduser().resolve()
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file. Pass a folder.")
    found = [path.relative_to(directory).as_posix() for path in directory.rglob("*")]
    others = sorted(name for name in found if name != "assets" and not PRESET_FILE.fullmatch(name))
    if others or (found and CONFIG_FILE not in found):
        raise ValueError(
            f"{directory} holds files that are no preset's, which saving would delete: "
            f"{(others or sorted(found))[:5]}. Pass a new folder, or move them."
        )
    return directory


def _check_model(model):
    """Raise a ValueError where a weight is NaN or inf, or a part would not be saved."""
    is_task = isinstance(model, keras_hub.models.Task)
    if is_task and model.has_task_weights():
        raise ValueError(
            f"{type(model).__name__} has weights of its own. A preset holds the weights of the "
            "backbone alone; move them there."
        )
    if is_task and model.preprocessor is not None and model.preprocessor.tokenizer is None:
        raise ValueError("The preprocessor has no tokenizer. Attach one, or no preprocessor.")
    for layer in model._flatten_layers():
        if not getattr(layer, "is_quantized_by_mode", lambda: True)():
            raise ValueError(
                f"The layer {layer.path!r} is quantized in a way that a preset does not hold: by "
                f"mode {layer.quantization_mode!r} with a configuration of its own. Save the model "
                "before `quantize`, and quantize it where it is loaded."
            )
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype) and not bool(
            ops.convert_to_numpy(ops.all(ops.isfinite(variable)))
        ):
            raise ValueError(
                f"The weight {variable.path!r} holds NaN or inf, so the model is not saved. "
                "Train again from the last good checkpoint, with a lower learning rate or "
                "gradient clipping."
            )


def _write(model, directory, max_shard_size):
    """Write all files of a preset, laid out as KerasHub's are."""
    backbone = model
    if isinstance(model, keras_hub.models.Task):
        backbone = model.backbone
        _write_object(directory / TASK_FILE, model)
        if model.preprocessor is not None:
            tokenizer = model.preprocessor.tokenizer
            _write_object(directory / PREPROCESSOR_FILE, model.preprocessor)
            _write_object(directory / TOKENIZER_FILE, tokenizer)
            if tokenizer.file_assets:  # a byte tokenizer has none
                (directory / TOKENIZER_ASSETS).mkdir(parents=True)
                tokenizer.save_assets(str(directory / TOKENIZER_ASSETS))
    keras_hub.models.Backbone.save_to_preset(
        backbone, str(directory), max_shard_size=max_shard_size
    )
    _name_dtypes(directory, backbone)
    checksums = {
        path.relative_to(directory).as_posix(): file_checksum(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    _write_json(directory / CHECKSUMS_FILE, checksums)


def _name_dtypes(directory, backbone):
    """Write the float dtype of a quantized backbone, which Keras leaves to the reader's default."""
    name = backbone.dtype_policy.name.removeprefix("map_")
    for file, keys in ((CONFIG_FILE, ()), (TASK_FILE, ("config", "backbone"))):
        path = directory / file
        if not path.exists():
            continue
        value = json.loads(path.read_text(encoding="utf-8"))
        serialized = value
        for key in keys:
            serialized = serialized[key]
        dtype = serialized["config"]["dtype"]
        if dtype["class_name"] != "DTypePolicyMap":
            continue
        if dtype["config"]["default_policy"] is None:
            dtype["config"]["default_policy"] = name
        for policy in dtype["config"]["policy_map"].values():
            for key in ("name", "source_name"):
                if policy["config"].get(key, name) is None:
                    policy["config"][key] = name
        _write_json(path, value)


def _without_state(serialized):
    """Return a serialized object without what training left in it, as KerasHub saves it."""
    if not isinstance(serialized, dict):
        return serialized
    return {
        key: _without_state(value)
        for key, value in serialized.items()
        if key not in ("compile_config", "build_config")
    }


def _write_object(path, value):
    _write_json(path, _without_state(keras.saving.serialize_keras_object(value)))


def _write_json(path, value):
    path.write_text(json.dumps(value, indent=4), encoding="utf-8")


def _flush(directory):
    """Wait until everything in a folder is on disk."""
    for path in [*directory.rglob("*"), directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _lock(directory):
    """Hold a folder's lock, which ends with the process; yield whether it was free."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:  # another process holds it, or the file system has no locks
            free = False
        yield free
    finally:
        os.close(descriptor)


def _remove_unfinished(directory):
    """Remove what saves to `directory` left beside it whose process was killed."""
    name = re.compile(rf"\.{re.escape(directory.name)}\.[0-9a-f]{{32}}")
    for path in directory.parent.iterdir():
        if name.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError), _lock(path) as free:
                if free and time.time() - path.stat().st_mtime > LOCKED_WITHIN:
                    shutil.rmtree(path, ignore_errors=True)


def _restore_interrupted(directory):
    """Undo a swap that was cut off between its two renames."""
    previous = previous_directory(directory)
    if previous.is_dir() and not directory.exists():
        previous.rename(directory)


def _swap(new, directory):
    """Put `new` in the place of `directory`, which moves aside for that moment."""
    previous = previous_directory(directory)
    if not directory.exists():
        new.rename(directory)
        return
    shutil.rmtree(previous, ignore_errors=True)
    directory.rename(previous)
    try:
        new.rename(directory)
    except OSError:
        previous.rename(directory)
        raise
    shutil.rmtree(previous, ignore_errors=True)
