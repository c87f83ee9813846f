"""Formats: how a document becomes a prefix and a target; what `format=` takes."""

from keras_textdiff.data.formats.format import Format
from keras_textdiff.data.formats.prefix_lm import PrefixLM
from keras_textdiff.data.formats.span_corruption import SpanCorruption, span_lengths
from keras_textdiff.data.formats.ul2 import UL2
from keras_textdiff.data.formats.whole_document import WholeDocument
from keras_textdiff.utils import registration

CLASSES = {
    "prefix_lm": PrefixLM,
    "span_corruption": SpanCorruption,
    "ul2": UL2,
    "whole_document": WholeDocument,
}


def get(identifier):
    """Return the format for a name ("prefix_lm"), a config or an object."""
    return registration.get(identifier, Format, CLASSES)


__all__ = [
    "CLASSES",
    "UL2",
    "Format",
    "PrefixLM",
    "SpanCorruption",
    "WholeDocument",
    "get",
    "span_lengths",
]
