"""Text diffusion language models in Keras 3, on JAX, TensorFlow and PyTorch."""

from keras_textdiff import (
    backbones,
    corruption,
    data,
    distribution,
    evaluation,
    models,
    objectives,
    samplers,
    training,
)
from keras_textdiff.transfer.ar2diff import ar2diff

__version__ = "0.1.0"

__all__ = [
    "ar2diff",
    "backbones",
    "corruption",
    "data",
    "distribution",
    "evaluation",
    "models",
    "objectives",
    "samplers",
    "training",
]
