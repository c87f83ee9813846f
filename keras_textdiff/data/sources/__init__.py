"""Sources: rows of text from files, public corpora and this machine."""

from keras_textdiff.data.sources.files import jsonl_source, text_source
from keras_textdiff.data.sources.hugging_face import hugging_face_source
from keras_textdiff.data.sources.named import named_source
from keras_textdiff.data.sources.parquet import parquet_source
from keras_textdiff.data.sources.python_library import python_source
from keras_textdiff.data.sources.tensorflow_datasets import tfds_source

__all__ = [
    "hugging_face_source",
    "jsonl_source",
    "named_source",
    "parquet_source",
    "python_source",
    "text_source",
    "tfds_source",
]
