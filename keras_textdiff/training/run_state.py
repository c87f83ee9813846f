"""Everything that a run's future depends on, as arrays and a JSON value."""

import copy
import json

import keras
import numpy as np

from keras_textdiff.utils import processes, registration

# What says nothing about a run: made-up names, and where classes live.
_IGNORED = {"name", "tokenizer", "module", "registered_name", "build_config", "trainable"}


def variable_groups(model):
    """Return all variables that training changes, by group, always in the same order."""
    return {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }


def copy_variables(model):
    """Return copies of all variables as a dict of dicts of NumPy arrays.

    With several processes, all must call it, and the first one gets them.
    """
    copies = {}
    for group, variables in variable_groups(model).items():
        for index, variable in enumerate(variables):
            value = processes.whole_array(variable)
            if processes.is_first_process():
                # A copy: training goes on in the same memory.
                copies.setdefault(group, {})[f"{index:06d}"] = np.array(value, copy=True)
    return copies


def assign_variables(model, arrays):
    """Set all variables to what `copy_variables` returned; on any number of devices."""
    for group, variables in variable_groups(model).items():
        for index, variable in enumerate(variables):
            variable.assign(np.asarray(arrays[group][f"{index:06d}"]))


def variable_names(model):
    """Return the variables' paths by group."""
    return {
        group: [variable.path for variable in variables]
        for group, variables in variable_groups(model).items()
    }


def describe_run(model, arguments):
    """Return what must be equal for a run to go on exactly, as a JSON value.

    Args:
        model: a compiled model.
        arguments: dict of the arguments of `keras.Model.fit`.
    """
    preprocessor = model.preprocessor
    description = {
        "backend": keras.config.backend(),
        "model": {
            "class": type(model).__name__,
            "backbone": model.backbone.get_config(),
            "preprocessor": preprocessor and preprocessor.get_config(),
        },
        "objective": registration.serialize(model.objective),
        "optimizer": keras.optimizers.serialize(model.optimizer),
        "data": arguments["x"].describe(),
        "steps_per_epoch": arguments["steps_per_epoch"],
        "variables": {
            group: [[list(v.shape), keras.backend.standardize_dtype(v.dtype)] for v in variables]
            for group, variables in variable_groups(model).items()
        },
    }
    return json.loads(json.dumps(_without_names(description), default=lambda x: type(x).__name__))


def _without_names(value):
    if isinstance(value, dict):
        return {k: _without_names(v) for k, v in value.items() if k not in _IGNORED}
    if isinstance(value, (list, tuple)):
        return [_without_names(v) for v in value]
    return value


def differences(saved, present, path=""):
    """Return a line for each place where two JSON values differ."""
    if isinstance(saved, dict) and isinstance(present, dict):
        return [
            line
            for key in sorted(set(saved) | set(present))
            for line in differences(
                saved.get(key), present.get(key), f"{path}.{key}" if path else key
            )
        ]
    if saved == present:
        return []
    if path.startswith("variables."):
        return [f"{path}: other shapes or dtypes"]
    return [f"{path}: {_short(saved)} in the checkpoint, {_short(present)} now"]


def _short(value):
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain_attributes(callback):
    """Return copies of a callback's own numbers, strings, and lists and dicts of them."""
    return {
        name: copy.deepcopy(value)
        for name, value in vars(callback).items()
        if name not in ("params", "_model") and _is_plain(value)
    }


def _is_plain(value):
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def callback_states(callbacks, fresh):
    """Return what the callbacks' attributes became, and the arrays among them.

    Args:
        callbacks: list of callbacks.
        fresh: list of their `plain_attributes` when training began.

    Returns:
        List of `[class name, attributes, names of lists of arrays]`, and a dict of arrays.
    """
    states, arrays = [], {}
    missing = object()
    for index, (callback, before) in enumerate(zip(callbacks, fresh, strict=True)):
        changed = {
            name: value
            for name, value in plain_attributes(callback).items()
            if before.get(name, missing) != value
        }
        lists = {
            name: value
            for name, value in vars(callback).items()
            if isinstance(value, list)
            and value
            and all(isinstance(v, np.ndarray) and v.size for v in value)
        }
        for name, value in lists.items():
            for position, array in enumerate(value):
                arrays[f"{index}.{name}.{position}"] = array.copy()
        states.append([type(callback).__name__, changed, {n: len(v) for n, v in lists.items()}])
    return states, arrays


def restore_callbacks(callbacks, states, arrays):
    """Set the attributes that `callback_states` returned, by class and order of callbacks."""
    waiting = list(enumerate(states))
    for callback in callbacks:
        for index, (class_name, attributes, lists) in waiting:
            if class_name == type(callback).__name__:
                vars(callback).update(copy.deepcopy(attributes))
                for name, length in lists.items():
                    value = [np.asarray(arrays[f"{index}.{name}.{i}"]) for i in range(length)]
                    setattr(callback, name, value)
                waiting = [entry for entry in waiting if entry[0] != index]
                break
