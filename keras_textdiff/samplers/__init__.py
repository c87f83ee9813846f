"""Samplers: what `DiffusionLM.compile(sampler=...)` takes."""

from keras_textdiff.samplers.argmax_unrolled_sampler import ArgmaxUnrolledSampler
from keras_textdiff.samplers.sampler import Sampler
from keras_textdiff.samplers.sundae_sampler import SundaeSampler
from keras_textdiff.utils import registration

_CLASSES = {"sundae": SundaeSampler, "argmax_unrolled": ArgmaxUnrolledSampler}


def get(identifier):
    """Return the sampler for a name ("sundae"), a config or an object."""
    return registration.get(identifier, Sampler, _CLASSES)


__all__ = ["ArgmaxUnrolledSampler", "Sampler", "SundaeSampler", "get"]
