"""Objectives: what `compile(objective=...)` takes."""

from keras_textdiff.objectives.next_token import NextToken
from keras_textdiff.objectives.objective import Objective
from keras_textdiff.objectives.sundae import Sundae
from keras_textdiff.utils import registration

_CLASSES = {"next_token": NextToken, "sundae": Sundae}


def get(identifier):
    """Return the objective for a name ("sundae"), a config or an object."""
    return registration.get(identifier, Objective, _CLASSES)


__all__ = ["NextToken", "Objective", "Sundae", "get"]
