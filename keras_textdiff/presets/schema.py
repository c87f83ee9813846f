"""What the JSON of a preset may say: which classes, which keys, which types of values.

Keras deserialization calls whatever public function the JSON names, so it never sees this JSON.
Here a serialized object is taken apart by position: its class must be one of those passed in,
its keys must be arguments of that class, and everything below them is plain data.
"""

import difflib
import inspect
import re
from typing import NamedTuple

import keras
import keras_hub

FLOAT_POLICIES = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "mixed_float16",
    "mixed_bfloat16",
)
POLICIES = (*FLOAT_POLICIES, "int32", "int64", "string")  # tokenizers have integers or strings
QUANTIZATION_MODE = re.compile(r"int8|float8|int4(/-?\d{1,9})?")
LAYER_PATH = re.compile(r"[\w/.\-]+")  # Keras takes the keys of a policy map for patterns
OBJECT_KEYS = {"module", "class_name", "config", "registered_name"}
COMMON_KINDS = {"name": str, "trainable": bool}
ASSET_KEYS = ("vocabulary", "merges", "proto")  # come from assets/; Keras would open a path


class Serialized(NamedTuple):
    """A serialized object that passed: its class, its constructor's arguments, where it stood."""

    cls: type
    config: dict
    where: str


def tokenizer_classes():
    """Return the public tokenizer classes of KerasHub."""
    base = keras_hub.tokenizers.Tokenizer
    return tuple(
        cls
        for cls in vars(keras_hub.tokenizers).values()
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base
    )


def check_object(value, where, classes, base, parts=(), extra_keys=()):
    """Check a serialized object.

    Args:
        value: JSON value.
        where: str, file and place for error messages.
        classes: tuple of classes that `value` may be of.
        base: class at which arguments stop counting, e.g. `keras_hub.models.Backbone`.
        parts: keys whose values are serialized objects themselves; left unchecked here.
        extra_keys: keys allowed beside the constructor's arguments.

    Returns:
        `Serialized`, its "dtype" replaced by a policy's name or a `keras.DTypePolicy`.

    Raises:
        ValueError: for another class, an unknown key, or a value of another type.
    """
    cls, config = _check_class(value, where, classes)
    arguments = constructor_arguments(cls, base)
    allowed = {*arguments, *COMMON_KINDS, "dtype", *extra_keys}
    checked = {}
    for key, item in config.items():
        place = below(where, f"config.{key}")
        if key not in allowed:
            raise ValueError(
                f"{place}: {unknown_name(key, allowed, f'an argument of {cls.__name__}')}"
            )
        if key in parts:
            checked[key] = item
        elif key == "dtype":
            checked[key] = check_dtype(item, place)
        else:
            _check_plain(item, place)
            _check_type(item, arguments.get(key), place)
            checked[key] = item
    return Serialized(cls, checked, where)


def check_named(value, where, classes):
    """Check the config of a small object of this library, as `registration.serialize` writes it.

    Args:
        value: JSON value.
        where: str, file and place for error messages.
        classes: tuple of classes that `value` may be of; their arguments are plain data.

    Raises:
        ValueError: for another class, an unknown key, or a value of another type.
    """
    if not isinstance(value, dict) or set(value) != {"class_name", "config"}:
        raise ValueError(f"{where}: must be an object of just 'class_name' and 'config'.")
    by_name = {cls.__name__: cls for cls in classes}
    name, config = value["class_name"], value["config"]
    if not isinstance(name, str) or name not in by_name:
        raise ValueError(
            f"{where}: the class {name!r} is not allowed here. Allowed: {sorted(by_name)}."
        )
    if not isinstance(config, dict):
        raise ValueError(f"{where}.config: must be an object. Got {type(config).__name__}.")
    arguments = constructor_arguments(by_name[name], object)
    for key, item in config.items():
        place = f"{where}.config.{key}"
        if key not in arguments:
            raise ValueError(f"{place}: {unknown_name(key, arguments, f'an argument of {name}')}")
        _check_plain(item, place)
        _check_type(item, arguments[key], place)


def constructor_arguments(cls, base):
    """Return the arguments of `cls` by name, with those it passes up to `base`."""
    arguments = {}
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            for name, parameter in inspect.signature(parent.__init__).parameters.items():
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    arguments.setdefault(name, parameter)
        if parent is base:
            break
    arguments.pop("self", None)
    return arguments


def unknown_name(name, allowed, what):
    """Return the message for a name that is not among `allowed`."""
    close = difflib.get_close_matches(name, sorted(allowed), n=1)
    suggestion = f"Did you mean {close[0]!r}? " if close else ""
    return f"{name!r} is not {what}. {suggestion}Allowed: {sorted(allowed)}."


def below(where, key):
    """Return how errors name a place inside a JSON file or inside an object there."""
    return f"{where}: {key}" if where.endswith(".json") else f"{where}.{key}"


def check_dtype(value, where):
    """Return a dtype policy's name, or the `keras.DTypePolicy` of a quantized model, or None."""
    policies = keras.dtype_policies
    if value is None or isinstance(value, str):
        return None if value is None else _check_policy(value, where)
    classes = (
        policies.DTypePolicy,
        policies.FloatDTypePolicy,
        policies.DTypePolicyMap,
        policies.QuantizedDTypePolicy,
        policies.QuantizedFloat8DTypePolicy,
        policies.Int4DTypePolicy,
    )
    cls, config = _check_class(value, where, classes, module="keras")
    keys = set(inspect.signature(cls.__init__).parameters) - {"self"}
    for key in config:
        if key not in keys:
            raise ValueError(
                f"{where}.config: {unknown_name(key, keys, f'an argument of {cls.__name__}')}"
            )
    if cls in (policies.DTypePolicy, policies.FloatDTypePolicy):
        return _check_policy(config.get("name"), f"{where}.config.name")
    if cls is policies.DTypePolicyMap:
        return _check_policy_map(config, f"{where}.config")
    if config.get("source_name") is not None:
        _check_policy(config["source_name"], f"{where}.config.source_name", FLOAT_POLICIES)
    mode = config.get("mode")
    if not isinstance(mode, str) or not QUANTIZATION_MODE.fullmatch(mode):
        raise ValueError(
            f"{where}.config.mode: must be 'int8', 'float8' or 'int4/<block size>'. Got {mode!r}."
        )
    length = config.get("amax_history_length", 1)
    if isinstance(length, bool) or not isinstance(length, int) or not 0 < length < 2**20:
        raise ValueError(f"{where}.config.amax_history_length: got {length!r}.")
    try:
        return cls(**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_policy_map(config, where):
    default = config.get("default_policy")
    if default is not None:
        default = check_dtype(default, f"{where}.default_policy")
        if default not in FLOAT_POLICIES:
            raise ValueError(f"{where}.default_policy: must be one of {FLOAT_POLICIES}.")
    policies = config.get("policy_map")
    if not isinstance(policies, dict):
        raise ValueError(f"{where}.policy_map: must be an object. Got {type(policies).__name__}.")
    result = keras.dtype_policies.DTypePolicyMap(default_policy=default)
    for path, policy in policies.items():
        if not LAYER_PATH.fullmatch(path):
            raise ValueError(f"{where}.policy_map: {path!r} is not the path of a layer.")
        place = f"{where}.policy_map[{path!r}]"
        policy = check_dtype(policy, place)
        if isinstance(policy, keras.dtype_policies.DTypePolicyMap):
            raise ValueError(f"{place}: a policy map inside a policy map.")
        result[path] = policy
    return result


def _check_policy(name, where, allowed=POLICIES):
    if not isinstance(name, str) or name not in allowed:
        raise ValueError(f"{where}: unknown dtype {name!r}. Allowed: {list(allowed)}.")
    return name


def _check_class(value, where, classes, module=None):
    """Return the class and the config of a serialized object of one of `classes`."""
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        names = [cls.__name__ for cls in classes][:8]
        hint = ""
        if isinstance(value, dict) and "model_type" in value:
            hint = " This looks like a Transformers checkpoint; use `keras_textdiff.ar2diff`."
        raise ValueError(f"{where}: must be a serialized object of {names}.{hint}")
    unknown = sorted(set(value) - OBJECT_KEYS)
    if unknown:
        raise ValueError(f"{where}: {unknown_name(unknown[0], OBJECT_KEYS, 'part of an object')}")
    if module is None:
        found = value.get("registered_name")
        by_name = {keras.saving.get_registered_name(cls): cls for cls in classes}
    else:
        found = value["class_name"]
        by_name = {cls.__name__: cls for cls in classes}
    cls = by_name.get(found) if isinstance(found, str) else None
    origin = str(value.get("module")).split(".")[0]
    if (
        cls is None
        or value["class_name"] != cls.__name__
        or value.get("registered_name") not in (found, None)
        or origin != (module or cls.__module__.split(".")[0])
    ):
        got = f"{value.get('module')}.{value['class_name']}"
        raise ValueError(
            f"{where}: the class {got!r} (registered as {value.get('registered_name')!r}) is not "
            f"allowed here. Allowed: {sorted(by_name)}. A class of your own is loaded by its own "
            "`from_preset`; a model of KerasHub or Transformers goes through "
            "`keras_textdiff.ar2diff`."
        )
    if not isinstance(value.get("config"), dict):
        found = type(value.get("config")).__name__
        raise ValueError(f"{below(where, 'config')}: must be an object. Got {found}.")
    return cls, value["config"]


def _check_plain(value, where):
    """Raise a ValueError where plain data hides a serialized object."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        if {"module", "class_name", "registered_name"} & set(value):
            name = f"{value.get('module')}.{value.get('class_name')}"
            raise ValueError(
                f"{where}: the class {name!r} is not allowed here. Allowed: numbers, strings, "
                "booleans, null, and lists and objects of these."
            )
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}")


def _check_type(value, parameter, where):
    """Raise a ValueError where a value has not the type of the argument's default."""
    key = where.rsplit(".", 1)[-1]
    if key in ASSET_KEYS and isinstance(value, str):
        raise ValueError(
            f"{where}: {value[:80]!r} would be opened as a file. A tokenizer reads its files from "
            "the preset's folder assets/tokenizer alone; set this to null."
        )
    if key in COMMON_KINDS:
        kind = COMMON_KINDS[key]
    else:
        kind = type(None if parameter is None else parameter.default)
    kinds = {
        bool: (bool, "true or false"),
        int: (int, "an integer"),
        float: ((int, float), "a number"),
        str: (str, "a string"),
        tuple: (list, "a list"),
        list: (list, "a list"),
        set: (list, "a list"),
        dict: (dict, "an object"),
    }
    if kind not in kinds:  # the constructor checks what has no default to go by
        return
    types, description = kinds[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}: must be {description}. Got {value!r}.")


def check_agreement(folder, name, value, where):
    """Raise a ValueError where a file and its copy in another file differ.

    Args:
        folder: `PresetFolder`.
        name: str, the file.
        value: JSON value of the copy.
        where: str, place of the copy.
    """
    difference = _first_difference(folder.read_json(name), value, "")
    if difference is not None:
        place, first, second = difference
        raise ValueError(
            f"{folder.describe(name)} and {where} contradict each other: {place.lstrip('.')!r} is "
            f"{_shorten(first)} in the one and {_shorten(second)} in the other. Make them equal, "
            "or save the preset again."
        )


def _first_difference(first, second, place):
    """Return `(place, value, value)` of the first difference of two JSON values, or None."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in [*first, *(key for key in second if key not in first)]:
            pair = first.get(key, "(missing)"), second.get(key, "(missing)")
            difference = _first_difference(*pair, f"{place}.{key}")
            if difference is not None:
                return difference
        return None
    return None if first == second else (place, first, second)


def _shorten(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
