"""Transfer: weights of pretrained autoregressive models."""

from keras_textdiff.transfer.ar2diff import ar2diff
from keras_textdiff.transfer.convert import convert_backbone

__all__ = ["ar2diff", "convert_backbone"]
