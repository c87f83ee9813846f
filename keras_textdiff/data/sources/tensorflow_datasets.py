"""Rows from TensorFlow Datasets."""

import os

from keras_textdiff.data.sources.optional import optional_import
from keras_textdiff.data.sources.rows import RowTemplate, make_source


def tfds_source(name, *, split="train", data_dir=None, template="{text}"):
    """Read rows from a dataset of TensorFlow Datasets, without tensorflow at reading time.

    Args:
        name: str, "squad" or "wmt14_translate/fr-en" and the like.
        split: str, "train", "validation[:10%]" and the like.
        data_dir: str or path of prepared datasets, or None for `~/tensorflow_datasets`. What is
            not there is downloaded, in a format with random access (array_record).
        template: see `jsonl_source`.

    Returns:
        `grain.MapDataset` of rows, see `jsonl_source`.

    Raises:
        ImportError: where tensorflow-datasets is not installed.
        ValueError: for a bad template.

    Example:
    ```python
    source = keras_textdiff.data.tfds_source(
        "squad", template=("{question}\\n{context}\\n", "{answers[text][0]}")
    )
    ```
    """
    RowTemplate(template)
    folder = None if data_dir is None else os.fspath(data_dir)
    tfds = optional_import("tensorflow_datasets", "tensorflow-datasets")
    return make_source(tfds.data_source(name, split=split, data_dir=folder), template)
