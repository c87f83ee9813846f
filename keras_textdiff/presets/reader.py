"""Read presets: everything in the folder is checked, then objects are built from plain data.

The classes that may be built are passed in by the rooms above.
"""

import keras
import keras_hub

from keras_textdiff.presets import weights
from keras_textdiff.presets.folder import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    TASK_FILE,
    TOKENIZER_FILE,
    PresetFolder,
)
from keras_textdiff.presets.memory import check_memory
from keras_textdiff.presets.preprocessing import (
    build,
    build_preprocessor,
    read_preprocessor,
    read_tokenizer,
)
from keras_textdiff.presets.schema import (
    Serialized,
    below,
    check_agreement,
    check_object,
    constructor_arguments,
    unknown_name,
)
from keras_textdiff.utils.weights_follow import weights_follow


def load_task(
    handle,
    task_class,
    *,
    task_classes,
    backbone_classes,
    preprocessor_classes,
    load_weights=True,
    dtype=None,
    maximum_gigabytes=None,
    **overrides,
):
    """Build a task from a preset.

    A preset without "task.json", of a backbone alone, gives `task_class` with its defaults.

    Args:
        handle: see `locate_preset`.
        task_class: class to build; the preset must hold it or a subclass.
        task_classes: classes that "task.json" may name.
        backbone_classes: classes that "config.json" may name; each has
            `parameter_count_from_config`.
        preprocessor_classes: classes that "preprocessor.json" may name.
        load_weights: bool, whether to load the weights; otherwise they are random.
        dtype: dtype or policy of the backbone. None means Keras' default policy, or for a
            quantized model the one it was saved with.
        maximum_gigabytes: float, memory the weights may take; None means the machine's.
        **overrides: arguments of the task's constructor in place of the saved ones.

    Returns:
        The task.

    Raises:
        ValueError: before any weight is loaded, for whatever is wrong with the preset.
    """
    folder = PresetFolder(handle)
    backbone = _read_backbone(folder, backbone_classes, dtype, maximum_gigabytes)
    task = _read_task(folder, task_class, task_classes, backbone_classes)
    allowed = {*constructor_arguments(task.cls, keras_hub.models.Task), "name"} - {"backbone"}
    others = {"load_weights", "dtype", "maximum_gigabytes"}
    _check_overrides(overrides, allowed | others, task.cls)
    vocabulary_size = backbone.config["vocabulary_size"]
    mask_token_id = task.config.get("mask_token_id")
    if mask_token_id is not None:
        _check_mask_token(mask_token_id, vocabulary_size, task.where)
    preprocessor = None
    if "preprocessor" not in overrides:
        preprocessor = _read_preprocessor(
            folder, task, task.cls.preprocessor_cls, preprocessor_classes
        )
    folder.check_checksums(weights=False)
    if preprocessor is not None:
        preprocessor = build_preprocessor(folder, preprocessor, vocabulary_size)
    backbone = _build_backbone(folder, backbone, load_weights)
    parts = {"preprocessor": preprocessor, **overrides, "backbone": backbone}
    return build(task, **parts)


def load_backbone(
    handle,
    *,
    backbone_classes,
    load_weights=True,
    dtype=None,
    maximum_gigabytes=None,
    **overrides,
):
    """Build the backbone of a preset.

    Args:
        handle: see `locate_preset`.
        backbone_classes: see `load_task`.
        load_weights: see `load_task`.
        dtype: see `load_task`.
        maximum_gigabytes: see `load_task`.
        **overrides: arguments of the backbone's constructor in place of the saved ones.

    Returns:
        The backbone.

    Raises:
        ValueError: see `load_task`.
    """
    folder = PresetFolder(handle)
    backbone = _read_backbone(folder, backbone_classes, dtype, maximum_gigabytes, overrides)
    folder.check_checksums(weights=False)
    return _build_backbone(folder, backbone, load_weights)


def read_backbone_config(handle, *, backbone_classes):
    """Return the constructor's arguments of a preset's backbone, checked; nothing is built.

    Args:
        handle: see `locate_preset`.
        backbone_classes: see `load_task`.

    Raises:
        ValueError: see `load_task`.
    """
    # Several machines may hold what does not fit into one.
    backbone = _read_backbone(PresetFolder(handle), backbone_classes, None, float("inf"))
    return backbone.config


def load_preprocessor(handle, preprocessor_class, *, preprocessor_classes, **overrides):
    """Build the preprocessor of a preset.

    Args:
        handle: see `locate_preset`.
        preprocessor_class: class to build; the preset must hold it or a subclass, or a tokenizer
            alone.
        preprocessor_classes: see `load_task`.
        **overrides: arguments of the preprocessor's constructor in place of the saved ones.

    Returns:
        The preprocessor.

    Raises:
        ValueError: see `load_task`.
    """
    folder = PresetFolder(handle, has_backbone=False)
    preprocessor = _read_preprocessor(folder, None, preprocessor_class, preprocessor_classes)
    if preprocessor is None:
        raise ValueError(f"{folder.directory} holds neither a preprocessor nor a tokenizer.")
    arguments = constructor_arguments(preprocessor.cls, keras_hub.models.Preprocessor)
    _check_overrides(overrides, {*arguments, "name"} - {"tokenizer"}, preprocessor.cls)
    folder.check_checksums(weights=False)
    return build_preprocessor(folder, preprocessor, **overrides)


# === Reading ===


def _read_task(folder, task_class, task_classes, backbone_classes):
    """Return the checked "task.json", or the defaults of `task_class` where there is none."""
    where = folder.describe(TASK_FILE)
    if TASK_FILE not in folder:
        return Serialized(task_class, {}, folder.describe(CONFIG_FILE))
    task = check_object(
        folder.read_json(TASK_FILE),
        where,
        task_classes,
        keras_hub.models.Task,
        parts=("backbone", "preprocessor"),
    )
    if not issubclass(task.cls, task_class):
        raise ValueError(
            f"{where}: holds a {task.cls.__name__}, not a {task_class.__name__}. Use "
            f"{task.cls.__name__}.from_preset; `keras_textdiff.ar2diff` turns an autoregressive "
            "model into a diffusion model."
        )
    place = below(where, "config.backbone")
    backbone = task.config.get("backbone")
    check_object(backbone, place, backbone_classes, keras_hub.models.Backbone)
    check_agreement(folder, CONFIG_FILE, backbone, place)
    return task


def _read_backbone(folder, backbone_classes, dtype, maximum_gigabytes, overrides=None):
    """Return the checked "config.json" with overrides and the dtype to build with."""
    where = folder.describe(CONFIG_FILE)
    base = keras_hub.models.Backbone
    backbone = check_object(folder.read_json(CONFIG_FILE), where, backbone_classes, base)
    if overrides:
        allowed = {*constructor_arguments(backbone.cls, base), "name", "trainable"}
        _check_overrides(overrides, allowed, backbone.cls)
        backbone.config.update(overrides)
    backbone.config["dtype"] = resolve_dtype(backbone.config.get("dtype"), dtype)
    check_memory(backbone, backbone.config["dtype"], maximum_gigabytes)
    return backbone


def _read_preprocessor(folder, task, preprocessor_class, preprocessor_classes):
    """Return the checked preprocessor of a preset, or None where it has none.

    Args:
        folder: `PresetFolder`.
        task: `Serialized` task, or None where only the preprocessor is wanted.
        preprocessor_class: class that it must be of, and that a lone tokenizer goes into.
        preprocessor_classes: tuple of allowed classes.
    """
    preprocessor = None
    if PREPROCESSOR_FILE in folder:
        value, where = folder.read_json(PREPROCESSOR_FILE), folder.describe(PREPROCESSOR_FILE)
        preprocessor = read_preprocessor(folder, value, where, preprocessor_classes)
    if task is not None and "preprocessor" in task.config:
        value, where = task.config["preprocessor"], below(task.where, "config.preprocessor")
        if value is not None:
            preprocessor = read_preprocessor(folder, value, where, preprocessor_classes)
        if PREPROCESSOR_FILE in folder:
            check_agreement(folder, PREPROCESSOR_FILE, value, where)
    elif preprocessor is None and TOKENIZER_FILE in folder:
        tokenizer = read_tokenizer(folder)
        return Serialized(preprocessor_class, {"tokenizer": tokenizer}, tokenizer.where)
    if preprocessor is not None and not issubclass(preprocessor.cls, preprocessor_class):
        raise ValueError(
            f"{preprocessor.where}: holds a {preprocessor.cls.__name__}, not a "
            f"{preprocessor_class.__name__}."
        )
    return preprocessor


def _check_overrides(overrides, allowed, cls):
    for name in overrides:
        if name not in allowed:
            what = f"an argument of {cls.__name__}.from_preset"
            raise ValueError(unknown_name(name, allowed, what))


def _check_mask_token(mask_token_id, vocabulary_size, where):
    is_integer = isinstance(mask_token_id, int) and not isinstance(mask_token_id, bool)
    if not is_integer or not 0 <= mask_token_id < vocabulary_size:
        raise ValueError(
            f"{below(where, 'config.mask_token_id')}: must be an integer in "
            f"[0, {vocabulary_size}), the backbone's vocabulary. Got {mask_token_id!r}."
        )


# === Building ===


def resolve_dtype(saved, requested):
    """Return the dtype policy to build a backbone with, as KerasHub chooses it.

    Args:
        saved: name of the saved policy, `keras.DTypePolicy` of a quantized model, or None.
        requested: dtype or policy that the user asks for, or None.
    """
    policies = keras.dtype_policies
    if requested is not None and isinstance(saved, policies.DTypePolicyMap):
        requested = policies.get(requested)
        result = policies.DTypePolicyMap(default_policy=requested.name)
        for path, policy in saved.items():
            config = policy.get_config()
            name = "source_name" if "source_name" in config else "name"
            result[path] = type(policy)(**{**config, name: requested.name})
        return result
    if requested is not None:
        return requested
    if saved is None or isinstance(saved, str):
        return keras.config.dtype_policy()
    return saved


def _build_backbone(folder, serialized, load_weights):
    """Build a backbone and load its weights, which are checked meanwhile."""
    if not load_weights:
        return _build(serialized)
    with folder.checking_weights():
        weights.check_weights_files(folder)
        with weights_follow():
            backbone = _build(serialized)
        weights.check_weights(backbone, folder)
    weights.load_weights(backbone, folder)
    return backbone


def _build(serialized):
    backbone = build(serialized)
    if isinstance(backbone.dtype_policy, keras.dtype_policies.DTypePolicyMap):
        # A layer that keeps the whole map asks the map itself when it is saved, and loses its
        # quantized weights: give each layer its own policy.
        for layer in backbone._flatten_layers(include_self=False):
            if isinstance(layer.dtype_policy, keras.dtype_policies.DTypePolicyMap) and layer.path:
                layer._dtype_policy = layer.dtype_policy[layer.path]
    return backbone
