"""Anything that a user may pass to `fit`, as a source of tokenized batches."""

import itertools
import types
from collections.abc import Iterator

import grain
import keras
import numpy as np

from keras_textdiff.data.batch_stream import (
    BatchStream,
    GrainSource,
    IndexedSource,
    IterableSource,
    Once,
)
from keras_textdiff.data.batches import ExampleBatches, IndexedBatches, num_examples
from keras_textdiff.utils.checks import check_integer


class PreparedBatches(IndexedBatches):
    """The batches of another `PyDataset`, prepared one by one.

    Args:
        dataset: `keras.utils.PyDataset`; its `num_batches` is None where it never ends.
        prepare: callable `(examples, epoch) -> batch`, tokenizes and checks.

    Raises:
        ValueError: for a dataset without a batch, or that does not say how many it has.
    """

    def __init__(self, dataset, prepare):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.prepare = prepare
        try:
            found = self.num_batches
        except NotImplementedError:
            raise ValueError(
                f"{type(dataset).__name__} does not say how many batches it has. Define its "
                "`__len__`, or a property `num_batches` that is None where it never ends."
            ) from None
        if found == 0:
            raise ValueError("There is nothing to train or evaluate on: the dataset is empty.")

    @property
    def num_batches(self):
        """Batches of an epoch, or None where the dataset never ends."""
        return self.dataset.num_batches

    def make_batch(self, index):
        """Return one tokenized batch."""
        return self.prepare(self.dataset[index], self.epoch)

    def on_epoch_begin(self):
        """Pass the call on."""
        self.dataset.on_epoch_begin()

    def next_epoch(self):
        """Pass the call of `on_epoch_end` on."""
        self.dataset.on_epoch_end()

    def repeat_epochs(self, number):
        """Tell the dataset of epochs that an earlier run has seen."""
        for _ in range(number):
            self.dataset.on_epoch_begin()
            self.dataset.on_epoch_end()

    def describe(self):
        """Return what tells one data set from another."""
        return {"kind": type(self.dataset).__name__, "number of batches": self.num_batches}


def make_batches(x, prepare, *, batch_size, shuffle, seed, num_steps=None, endless=False):
    """Return `x` as something that `keras.Model.fit` iterates.

    Args:
        x: a list of strings, a dict of lists or arrays, a `keras.utils.PyDataset`, a grain
            dataset or loader, a `tf.data.Dataset`, a torch `DataLoader`, or a generator; the
            last five yield batches.
        prepare: callable `(examples, epoch) -> batch`.
        batch_size: int or None (32); for examples in memory only.
        shuffle: bool; for examples in memory only.
        seed: int of the shuffling.
        num_steps: int or None, batches that will be read; a generator that yields fewer is an
            error, and a dataset that never ends needs it.
        endless: bool, whether data that can be read again starts over where it ends, as an epoch
            of a given number of steps needs.

    Returns:
        `IndexedBatches` or a `BatchStream` of tokenized batches.
    """
    if isinstance(x, (IndexedBatches, BatchStream)):  # `fit` evaluates what it was given
        return x
    if isinstance(x, (str, bytes)):
        raise ValueError("Pass a list of strings. Got one string.")
    if in_memory(x):
        batch_size = check_integer(
            "batch_size", 32 if batch_size is None else batch_size, minimum=1
        )
        examples = x if isinstance(x, dict) else list(x)
        if num_examples(examples) == 0:
            raise ValueError("There is nothing to train or evaluate on: got no examples.")
        batches = ExampleBatches(examples, prepare, batch_size, shuffle, seed)
        return BatchStream(IndexedSource(batches), endless) if endless else batches
    if batch_size is not None:
        raise ValueError(
            f"`batch_size` is for examples in memory; a {type(x).__name__} yields batches "
            "already. Leave it out, and batch the dataset itself."
        )
    if isinstance(x, keras.utils.PyDataset):
        batches = PreparedBatches(x, prepare)
        if batches.num_batches is None and num_steps is None:
            raise ValueError(
                f"{type(x).__name__} never ends: its `num_batches` is None. Pass how many batches "
                "to read: `steps_per_epoch` to `fit`, `validation_steps` for validation, `steps` "
                "to `evaluate` and `predict`."
            )
        endless = endless or batches.num_batches is None
        return BatchStream(IndexedSource(batches), endless) if endless else batches
    if isinstance(x, types.GeneratorType) or hasattr(x, "__next__"):
        source = IterableSource(Once(x, num_steps), prepare)
    elif isinstance(x, (grain.MapDataset, grain.IterDataset)):
        # Grain's own threads prepare the batches.
        source = GrainSource(x.map(lambda batch: prepare(batch, 0)), lambda batch, epoch: batch)
    elif hasattr(x, "as_numpy_iterator"):  # tf.data
        source = IterableSource(_Iterable(x.as_numpy_iterator), prepare)
    elif isinstance(x, grain.DataLoader):
        source = GrainSource(x, prepare)
    elif hasattr(x, "__iter__"):
        source = IterableSource(x, prepare)
    else:
        raise ValueError(
            f"Cannot read batches from a {type(x).__name__}. Pass a list of strings, a dict of "
            "lists or arrays, a PyDataset, a grain dataset, a tf.data.Dataset, a torch DataLoader "
            "or a generator of batches."
        )
    batches = BatchStream(source, endless)
    if next(iter(batches), None) is None:
        raise ValueError("There is nothing to train or evaluate on: the dataset is empty.")
    return batches


def in_memory(x):
    """Return whether `x` holds examples, not batches."""
    return isinstance(x, (list, tuple, dict, np.ndarray)) or hasattr(x, "__array__")


class _Iterable:
    def __init__(self, make_iterator):
        self._make_iterator = make_iterator

    def __iter__(self):
        return iter(self._make_iterator())


def read_ahead(x, num_batches):
    """Return a generator's first `num_batches` batches as a dataset; anything else as it is."""
    if not isinstance(x, Iterator):
        return x
    if num_batches is None:
        raise ValueError(
            "A generator is read once, and validation reads its data anew each time. Pass "
            "`validation_steps`, or a dataset that can be read again."
        )
    batches = list(itertools.islice(x, num_batches))
    if len(batches) < num_batches:
        raise ValueError(
            f"The generator ended after {len(batches)} batches; validation_steps is "
            f"{num_batches}. Pass fewer."
        )
    return _Iterable(lambda: batches)
