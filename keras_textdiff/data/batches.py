"""Anything that a user may pass to `fit`, as a source of tokenized batches."""

import hashlib
import itertools
import math
import types
import warnings
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
from keras_textdiff.utils import random
from keras_textdiff.utils.checks import check_integer, check_token_ids

MASKS = ("padding_mask", "prompt_mask", "target_mask")
BATCH_KEYS = ("token_ids", *MASKS, "segment_ids")
ENCODER_KEYS = ("encoder_token_ids", "encoder_padding_mask")  # of models with an encoder, as well


class BatchChecker:
    """Checks and completes tokenized batches, and counts rows without a supervised token.

    Args:
        vocabulary_size: int V; ids must lie below it.
        has_encoder: bool, whether batches have `ENCODER_KEYS`, too.
    """

    def __init__(self, vocabulary_size, has_encoder=False):
        self.vocabulary_size = vocabulary_size
        self.has_encoder = has_encoder
        self.keys = (*BATCH_KEYS, *ENCODER_KEYS) if has_encoder else BATCH_KEYS
        self.reset()

    def reset(self):
        """Start the count of rows anew."""
        self.num_rows = 0
        self.num_unsupervised_rows = 0

    def __call__(self, batch):
        """Return the batch as NumPy arrays with all masks.

        Raises:
            ValueError: for missing or unknown keys, shapes that differ, ids outside the
                vocabulary or anything that is not finite.
        """
        if isinstance(batch, tuple) and len(batch) == 1:
            batch = batch[0]
        if not isinstance(batch, dict) or "token_ids" not in batch:
            found = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
            raise ValueError(
                "A tokenized batch is a dict with 'token_ids' and, as needed, "
                f"{self.keys[1:]}. Got {found}. Pass strings to a model with a preprocessor to "
                "have them tokenized."
            )
        unknown = sorted(set(batch) - set(self.keys))
        if unknown:
            raise ValueError(f"Unknown keys in a batch: {unknown}. Allowed: {self.keys}.")
        batch = {key: to_numpy(value) for key, value in batch.items()}
        self._check_ids(batch, "token_ids")
        token_ids = batch["token_ids"]
        for key in MASKS:
            if key in batch:
                _check_mask(batch, key, "token_ids")
        if "segment_ids" in batch:
            _check_segments(batch)
        if self.has_encoder:
            self._check_encoder(batch)
        padding_mask = batch.setdefault("padding_mask", np.ones(token_ids.shape, bool))
        if "target_mask" not in batch:
            prompt_mask = batch.get("prompt_mask", np.zeros(token_ids.shape, bool))
            batch["target_mask"] = padding_mask & ~prompt_mask
        batch.setdefault("prompt_mask", padding_mask & ~batch["target_mask"])
        self.num_rows += len(token_ids)
        self.num_unsupervised_rows += int((~batch["target_mask"].any(axis=1)).sum())
        return batch

    def _check_ids(self, batch, key):
        token_ids = batch[key]
        if token_ids.ndim != 2 or 0 in token_ids.shape:
            raise ValueError(
                f"{key!r} must be a non-empty (batch, length) array. Got {token_ids.shape}."
            )
        check_token_ids(key, token_ids, self.vocabulary_size)
        batch[key] = token_ids.astype("int32")

    def _check_encoder(self, batch):
        ids, mask = ENCODER_KEYS
        if ids not in batch:
            raise ValueError(
                f"A model with an encoder needs {ids!r}, the prefix of each row, beside "
                f"'token_ids'. Got {sorted(batch)}."
            )
        self._check_ids(batch, ids)
        if len(batch[ids]) != len(batch["token_ids"]):
            raise ValueError(
                f"{ids!r} must have as many rows as 'token_ids', {len(batch['token_ids'])}. Got "
                f"{len(batch[ids])}."
            )
        batch.setdefault(mask, np.ones(batch[ids].shape, bool))
        _check_mask(batch, mask, ids)

    def warn(self):
        """Warn once where rows had no supervised token."""
        if self.num_unsupervised_rows:
            warnings.warn(
                f"{self.num_unsupervised_rows} of {self.num_rows} rows had no supervised token "
                "and added nothing to the loss (a prompt that fills the whole sequence_length, "
                "or an all-False 'target_mask').",
                stacklevel=3,
            )


def _check_mask(batch, key, ids):
    """Check a mask of the token ids under `ids`, and make it boolean."""
    values, shape = batch[key], batch[ids].shape
    if values.shape != shape:
        raise ValueError(f"{key!r} must have the shape of {ids!r}, {shape}. Got {values.shape}.")
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise ValueError(f"{key!r} must hold booleans (or 0 and 1). Got {values.dtype}.")
    batch[key] = values.astype(bool)


def _check_segments(batch):
    values, shape = batch["segment_ids"], batch["token_ids"].shape
    if values.shape != shape:
        raise ValueError(
            f"'segment_ids' must have the shape of 'token_ids', {shape}. Got {values.shape}."
        )
    if values.dtype.kind not in "iu":
        raise ValueError(
            "'segment_ids' must hold integers, one for each document of a packed row. "
            f"Got {values.dtype}."
        )
    batch["segment_ids"] = values.astype("int32")


def longest_document(batch):
    """Return the length of a row, or of packed rows that of the longest segment."""
    if "segment_ids" not in batch:
        return batch["token_ids"].shape[1]
    return max(int(np.unique(row, return_counts=True)[1].max()) for row in batch["segment_ids"])


def fill_rows(batch, multiple):
    """Return a batch whose number of rows is a multiple, as devices that share it need.

    Args:
        batch: dict of arrays with all masks, see `BatchChecker`.
        multiple: int.

    Returns:
        The batch, or one with copies of its first row behind the others, without a target.
    """
    missing = -len(batch["token_ids"]) % multiple
    if not missing:
        return batch
    batch = {
        key: np.concatenate([value, np.repeat(value[:1], missing, axis=0)])
        for key, value in batch.items()
    }
    batch["target_mask"][-missing:] = False
    return batch


def encoder_tokens(rows):
    """Return the token ids that the encoder reads, an int array per row; empty without one."""
    if "encoder_token_ids" not in rows:
        return [np.zeros(0, int)] * len(rows["token_ids"])
    pairs = zip(rows["encoder_token_ids"], rows["encoder_padding_mask"], strict=True)
    return [ids[real] for ids, real in pairs]


def to_numpy(value):
    """Return any backend's tensor, or a list of numbers, as a NumPy array."""
    if hasattr(value, "detach"):  # a torch tensor, whatever the backend
        value = value.detach().cpu().numpy()
    return np.asarray(value)


class IndexedBatches(keras.utils.PyDataset):
    """Batches that are read by their index, from any position on.

    Subclasses define `__len__`, `make_batch(index)`, `next_epoch()`, `repeat_epochs(number)` and
    `describe()`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.epoch = 0
        self.seed = None
        self._first_epoch = 0
        self._num_stand_ins = 0
        self._stand_in = None

    def __getitem__(self, index):
        if index >= self._num_stand_ins:
            return self.make_batch(index)
        if self._stand_in is None:
            self._stand_in = self.make_batch(0)
        return self._stand_in

    def on_epoch_end(self):
        """Move to the next epoch."""
        self._num_stand_ins = 0
        self.epoch += 1
        self.next_epoch()

    def begin(self):
        """Count epochs from here: training begins."""
        self._first_epoch = self.epoch

    def follow(self, position=None, num_stand_ins=0):
        """After `begin`, go where `position` says.

        Args:
            position: what `position()` returned in another run, or None for the start.
            num_stand_ins: int, batches of the first epoch that are read, but not trained on; they
                are not made.
        """
        if position is not None:
            self.seed = position["seed"]
            self.epoch += position["epoch"]
            self.repeat_epochs(position["epoch"])
            self._num_stand_ins = num_stand_ins

    def position(self, num_batches, epoch_ended):
        """Return where training stands as a JSON value, see `BatchStream.position`."""
        return {"epoch": self.epoch - self._first_epoch, "seed": self.seed}


class ExampleBatches(IndexedBatches):
    """Batches of examples held in memory, shuffled anew each epoch.

    Args:
        examples: a list of strings, or a dict of equally long lists or arrays.
        prepare: callable `(examples, epoch) -> batch`, tokenizes and checks.
        batch_size: int.
        shuffle: bool.
        seed: int of the shuffling.
    """

    def __init__(self, examples, prepare, batch_size, shuffle, seed):
        super().__init__()
        self.examples = examples
        self.prepare = prepare
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.num_examples = num_examples(examples)
        self.next_epoch()

    def next_epoch(self):
        """Draw the epoch's order."""
        self.order = np.arange(self.num_examples)
        if self.shuffle:
            self.order = random.generator("shuffle", self.seed, self.epoch).permutation(
                self.num_examples
            )

    def repeat_epochs(self, number):
        """Draw the order of the epoch that was moved to."""
        self.next_epoch()

    def __len__(self):
        return math.ceil(self.num_examples / self.batch_size)

    def make_batch(self, index):
        """Return one tokenized batch."""
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.prepare(take_examples(self.examples, rows), self.epoch)

    def describe(self):
        """Return what tells one data set from another."""
        rows = np.linspace(0, self.num_examples - 1, min(self.num_examples, 256)).astype(int)
        sample = take_examples(self.examples, rows)
        parts = [sample[key] for key in sorted(sample)] if isinstance(sample, dict) else [sample]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(repr([np.asarray(row).tolist() for row in part]).encode())
        return {
            "kind": "examples in memory",
            "number of examples": self.num_examples,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "digest of examples": digest.hexdigest(),
        }


class PreparedBatches(IndexedBatches):
    """The batches of another `PyDataset`, prepared one by one."""

    def __init__(self, dataset, prepare):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset = dataset
        self.prepare = prepare

    def __len__(self):
        return len(self.dataset)

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
        return {"kind": type(self.dataset).__name__, "number of batches": len(self)}


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
        num_steps: int or None, batches that a generator must yield; fewer are an error.
        endless: bool, whether data that can be read again starts over where it ends, as an epoch
            of a given number of steps needs.

    Returns:
        `IndexedBatches` or a `BatchStream` of tokenized batches.
    """
    if isinstance(x, (IndexedBatches, BatchStream)):  # `fit` evaluates what it was given
        return x
    if isinstance(x, (str, bytes)):
        raise ValueError("Pass a list of strings. Got one string.")
    if isinstance(x, (list, tuple, dict, np.ndarray)) or hasattr(x, "__array__"):
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
        if len(x) == 0:
            raise ValueError("There is nothing to train or evaluate on: the dataset is empty.")
        batches = PreparedBatches(x, prepare)
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


def num_examples(examples):
    """Return how many examples there are; a dict's entries must agree."""
    if not isinstance(examples, dict):
        return len(examples)
    for key, value in examples.items():
        if isinstance(value, (str, bytes)):
            raise ValueError(
                f"{key!r} must be a list with an entry for each example. Got a string."
            )
    lengths = {key: len(value) for key, value in examples.items()}
    if not lengths or len(set(lengths.values())) != 1:
        raise ValueError(f"All entries need the same number of examples. Got {lengths}.")
    return next(iter(lengths.values()))


def take_examples(examples, rows):
    """Return the given rows, in the same structure."""
    if isinstance(examples, dict):
        return {key: _take(value, rows) for key, value in examples.items()}
    return _take(examples, rows)


def _take(values, rows):
    if isinstance(values, (list, tuple)):
        return [values[row] for row in rows]
    return to_numpy(values)[rows]
