"""One registry for everything a user may name by a string: objectives, samplers, corruptions."""

import re

import keras

PACKAGE = "keras_textdiff"


def register(cls):
    """Register `cls` with Keras under this package's name (a class decorator)."""
    return keras.saving.register_keras_serializable(package=PACKAGE)(cls)


def snake_case(name):
    """Return `SundaeSampler` as `sundae_sampler`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def get(identifier, base_class, classes):
    """Resolve a name, a config or an object to an instance of `base_class`.

    Args:
        identifier: an instance of `base_class`, the name of one of `classes` ("sundae"), or
            its serialised config (a dict with "class_name" and "config"; of a class of the
            user's, registered with Keras or in its `custom_objects`, also "registered_name").
        base_class: class that the result must be an instance of.
        classes: dict from name to class.

    Returns:
        An instance of `base_class`.

    Raises:
        ValueError: for anything else, naming what is allowed.
    """
    if isinstance(identifier, base_class):
        return identifier
    kind = snake_case(base_class.__name__)
    if isinstance(identifier, str):
        if identifier in classes:
            return classes[identifier]()
    elif isinstance(identifier, dict) and set(identifier) >= {"class_name", "config"}:
        name = identifier.get("registered_name")
        if name is not None:
            cls = keras.saving.get_registered_object(name)
            if isinstance(cls, type) and issubclass(cls, base_class):
                return cls(**identifier["config"])
            raise ValueError(
                f"The {kind} {name!r} is not known here. Import the module that defines it, under "
                "`keras.saving.register_keras_serializable`, or pass it in `custom_objects`."
            )
        for cls in classes.values():
            if cls.__name__ == identifier["class_name"]:
                return cls(**identifier["config"])
    raise ValueError(
        f"Unknown {kind}: got {identifier!r}. Pass one of the names {sorted(classes)}, "
        f"a `{base_class.__name__}` object, or its serialized config."
    )


def serialize(instance):
    """Return the config that `get` turns back into an equal object."""
    cls = type(instance)
    config = {"class_name": cls.__name__, "config": instance.get_config()}
    name = keras.saving.get_registered_name(cls)
    return config if name.startswith(f"{PACKAGE}>") else {**config, "registered_name": name}


class classproperty(property):
    """A property of a class rather than of its objects."""

    def __get__(self, _, cls):
        """Call the getter with the class."""
        return self.fget(cls)
