"""Checks that fail before work starts, saying what was received, what is allowed, and the fix."""

import numbers

import numpy as np


def check_integer(name, value, *, minimum=None, maximum=None):
    """Return `value` as an int, or raise a ValueError that names `name`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"`{name}` must be an integer. Got {value!r} ({type(value).__name__}).")
    return int(_check_range(name, value, minimum, maximum))


def check_number(name, value, *, minimum=None, maximum=None):
    """Return `value` as a finite float, or raise a ValueError that names `name`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not np.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number. Got {value!r}.")
    return float(_check_range(name, value, minimum, maximum))


def _check_range(name, value, minimum, maximum):
    if minimum is not None and value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}. Got {value!r}.")
    if maximum is not None and value > maximum:
        raise ValueError(f"`{name}` must be at most {maximum}. Got {value!r}.")
    return value


def check_choice(name, value, choices):
    """Return `value` if it is one of `choices`, or raise a ValueError that lists them."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {list(choices)}. Got {value!r}.")
    return value


def check_texts(texts):
    """Raise a ValueError that names the first of `texts` that is no text."""
    for index, text in enumerate(texts):
        if not isinstance(text, (str, bytes)):
            raise ValueError(
                f"Texts must be strings. Got {type(text).__name__} at position {index}."
            )
        if isinstance(text, bytes):
            try:
                text.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"Text {index} is not UTF-8: {error}.") from error


def check_token_ids(name, token_ids, vocabulary_size):
    """Raise a ValueError where `token_ids` are not integers inside the vocabulary.

    Compiled code cannot check this: an id outside gives NaN on jax and an error elsewhere.
    """
    token_ids = np.asarray(token_ids)
    if token_ids.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must hold integers. Got dtype {token_ids.dtype}.")
    if token_ids.size == 0:
        return
    low, high = int(token_ids.min()), int(token_ids.max())
    if low < 0 or high >= vocabulary_size:
        position = np.argwhere((token_ids < 0) | (token_ids >= vocabulary_size))[0].tolist()
        raise ValueError(
            f"`{name}` must lie in [0, {vocabulary_size}), the model's vocabulary. Got ids from "
            f"{low} to {high}, the first one outside at position {position}. Use the tokenizer "
            "that the model was trained with."
        )
