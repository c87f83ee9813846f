"""Data: from text to batches."""

from keras_textdiff.data.formats import UL2, Format, PrefixLM, SpanCorruption, WholeDocument
from keras_textdiff.data.formats.format import Room
from keras_textdiff.data.mixture import mixture
from keras_textdiff.data.pipeline import ResumableDataset, pipeline
from keras_textdiff.data.sources import (
    hugging_face_source,
    jsonl_source,
    named_source,
    parquet_source,
    python_source,
    text_source,
    tfds_source,
)

__all__ = [
    "UL2",
    "Format",
    "PrefixLM",
    "ResumableDataset",
    "Room",
    "SpanCorruption",
    "WholeDocument",
    "hugging_face_source",
    "jsonl_source",
    "mixture",
    "named_source",
    "parquet_source",
    "pipeline",
    "python_source",
    "text_source",
    "tfds_source",
]
