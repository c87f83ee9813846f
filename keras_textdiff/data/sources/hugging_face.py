"""Rows from Hugging Face datasets, in memory, from disk or streamed."""

import copy

import grain

from keras_textdiff.data.sources.optional import optional_import
from keras_textdiff.data.sources.rows import RowTemplate, make_source


def hugging_face_source(
    dataset,
    config=None,
    *,
    split="train",
    streaming=False,
    data_dir=None,
    data_files=None,
    template="{text}",
):
    """Read rows from a dataset of the library `datasets`.

    Args:
        dataset: a `datasets.Dataset` or `datasets.IterableDataset`, or what
            `datasets.load_dataset` takes: the name of a dataset on the Hub, or "parquet", "json"
            and the like for files of your own.
        config: str or None, name of the dataset's configuration.
        split: str, "train", "validation[:10%]" and the like.
        streaming: bool, whether to read over the network as rows are needed instead of
            downloading first; streamed rows come in order, and a position is entered again by
            the dataset's own `state_dict`.
        data_dir: str or None, folder inside the dataset's repository.
        data_files: str, list or dict of files, or None.
        template: see `jsonl_source`.

    Returns:
        `grain.MapDataset` of rows, see `jsonl_source`; `grain.IterDataset` where streamed.

    Raises:
        ImportError: where `datasets` is not installed.
        ValueError: for a bad template, or an object that is no dataset.

    Example:
    ```python
    source = keras_textdiff.data.hugging_face_source(
        "rajpurkar/squad", template=("{question}\\n{context}\\n", "{answers[text][0]}")
    )
    ```
    """
    row_template = RowTemplate(template)
    datasets = optional_import("datasets", "datasets")
    if isinstance(dataset, str):
        dataset = datasets.load_dataset(
            dataset,
            config,
            split=split,
            streaming=streaming,
            data_dir=data_dir,
            data_files=data_files,
        )
    if isinstance(dataset, datasets.IterableDataset):
        return _Stream(dataset, row_template)
    if isinstance(dataset, datasets.Dataset):
        return make_source(dataset, template)
    raise ValueError(
        "`dataset` must be a name, a datasets.Dataset or a datasets.IterableDataset. Got "
        f"{type(dataset).__name__}. Pick one split of a DatasetDict."
    )


class _Stream(grain.IterDataset):
    """The rows of a `datasets.IterableDataset`."""

    def __init__(self, dataset, template):
        super().__init__()
        self._dataset = dataset
        self._template = template

    def __iter__(self):
        return _StreamIterator(copy.deepcopy(self._dataset), self._template)


class _StreamIterator(grain.DatasetIterator):
    def __init__(self, dataset, template):
        super().__init__()
        self._dataset = dataset
        self._template = template
        self._start = copy.deepcopy(dataset.state_dict())
        self._iterator = None

    def __next__(self):
        if self._iterator is None:
            self._iterator = iter(self._dataset)
        return self._template(next(self._iterator))

    def get_state(self):
        if self._iterator is None:
            return self._start
        return copy.deepcopy(self._dataset.state_dict())

    def set_state(self, state):
        self._start = copy.deepcopy(state)
        self._dataset.load_state_dict(state)
        self._iterator = None
