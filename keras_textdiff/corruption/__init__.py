"""Corruption: how a clean target becomes a canvas."""

from keras_textdiff.corruption.uniform_corruption import UniformCorruption
from keras_textdiff.utils import registration

_CLASSES = {"uniform": UniformCorruption}


def get(identifier):
    """Return the corruption for a name, a config or an object."""
    return registration.get(identifier, UniformCorruption, _CLASSES)


__all__ = ["UniformCorruption", "get"]
