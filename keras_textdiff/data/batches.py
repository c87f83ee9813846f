"""Tokenized batches: checked, completed, and made of examples in memory."""

import hashlib
import math
import warnings

import keras
import numpy as np

from keras_textdiff.utils import random
from keras_textdiff.utils.checks import check_token_ids
from keras_textdiff.utils.errors import error_kept

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
            ValueError: for missing or unknown keys, rows or arrays whose lengths differ, ids
                outside the vocabulary, anything that is not finite, or a target on padding or
                in the prompt.
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
        batch = {key: _to_rows(key, value) for key, value in batch.items()}
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
        _check_target(batch)
        batch.setdefault("prompt_mask", padding_mask & ~batch["target_mask"])
        self.num_rows += len(token_ids)
        self.num_unsupervised_rows += int((~batch["target_mask"].any(axis=1)).sum())
        return batch

    def prompt_rows(self, inputs):
        """Return the rows of tokenized prompts; what is not prompt is to be written.

        Args:
            inputs: dict of "token_ids" int `(B, L)` and "padding_mask" bool `(B, L)`, True on the
                prompt, as KerasHub's models take them; with an encoder `ENCODER_KEYS`, too.

        Returns:
            Dict of "token_ids", "padding_mask", "prompt_mask" and "target_mask", `(B, L)`, and
            the encoder's arrays.

        Raises:
            ValueError: for anything else, ids outside the vocabulary, or a row that is all prompt.
        """
        encoder = set(ENCODER_KEYS) if self.has_encoder else set()
        if not isinstance(inputs, dict) or set(inputs) - encoder != {"token_ids", "padding_mask"}:
            found = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise ValueError(
                "Tokenized prompts are a dict of 'token_ids' and 'padding_mask', True on the "
                f"prompt. Got {found}. Text needs a preprocessor."
            )
        inputs = dict(inputs)
        rows = self({"prompt_mask": inputs.pop("padding_mask"), **inputs})
        full = ~rows["target_mask"].any(axis=1)
        if full.any():
            raise ValueError(
                f"Row {int(full.argmax())} is all prompt, so nothing is left to write. Make the "
                "rows longer, with False in 'padding_mask' where text is wanted."
            )
        return rows

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


def _check_target(batch):
    """Refuse a loss on padding, which nothing attends to, or on the prompt, which is given."""
    padding_mask = batch["padding_mask"]
    no_prompt = np.zeros_like(padding_mask)
    for wrong, where, key, expected in (
        (~padding_mask, "padding", "padding_mask", True),
        (batch.get("prompt_mask", no_prompt), "part of the prompt", "prompt_mask", False),
    ):
        found = np.argwhere(batch["target_mask"] & wrong)
        if len(found):
            row, position = found[0].tolist()
            raise ValueError(
                f"'target_mask' is True where the loss cannot count: row {row}, position "
                f"{position} is {where}. Make 'target_mask' False or {key!r} {expected} there (a "
                "denoiser that is to learn where text ends has end tokens there, not padding)."
            )


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


def to_numpy(value):
    """Return any backend's tensor, or a list of numbers, as a NumPy array."""
    if hasattr(value, "detach"):  # a torch tensor, whatever the backend
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def _to_rows(key, value):
    try:
        return to_numpy(value)
    except ValueError as error:  # NumPy's word for it is "inhomogeneous"
        raise ValueError(
            f"{key!r} has rows of different lengths. Pad them to one length, with False in "
            "'padding_mask' where a row is filled, or pass texts."
        ) from error


def batch_shape(batch):
    """Return the rows of a tokenized batch, its columns, and those of its encoder's prefix, or 0.

    Args:
        batch: dict of arrays, see `BatchChecker`.
    """
    prefix = batch.get("encoder_token_ids")
    return (*batch["token_ids"].shape, 0 if prefix is None else prefix.shape[1])


class IndexedBatches(keras.utils.PyDataset):
    """Batches that are read by their index, from any position on.

    Subclasses define `num_batches`, `make_batch(index)`, `next_epoch()`, `repeat_epochs(number)`
    and `describe()`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.error = None
        self.epoch = 0
        self.seed = None
        self._first_epoch = 0
        self._num_stand_ins = 0
        self._stand_in = None
        self._shapes = None

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        with error_kept(self):
            if index >= self._num_stand_ins:
                batch = self.make_batch(index)
                if self._shapes is not None:
                    self._shapes[index] = batch_shape(batch)
                return batch
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

    def note_shapes(self):
        """Keep the shapes of batches from here on, until they are asked for."""
        self._shapes = {}

    def next_shape(self, index):
        """Return the `batch_shape` of a batch that was trained on; None if another process read it.

        Args:
            index: int, the batch's in its epoch; all are asked for, in order.
        """
        return self._shapes.pop(index, None)

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

    @property
    def num_batches(self):
        """Batches of an epoch."""
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
