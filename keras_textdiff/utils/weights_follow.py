"""Weights that are loaded next need no random values first, which take most of building's time."""

import contextlib
import contextvars

import keras
from keras import ops

_FOLLOW = contextvars.ContextVar("weights_follow", default=False)


@contextlib.contextmanager
def weights_follow():
    """In this context, layers are built without values: all of their weights are assigned next."""
    token = _FOLLOW.set(True)
    try:
        yield
    finally:
        _FOLLOW.reset(token)


def start_from(initializer):
    """Return an initializer, or the cheapest one where weights follow."""
    if not _FOLLOW.get():
        return initializer
    return _empty if keras.config.backend() == "torch" else "zeros"


def _empty(shape, dtype=None):
    """Return memory that is not written yet."""
    import torch

    like = ops.zeros((), dtype)
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device)
