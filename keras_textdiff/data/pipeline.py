"""From rows of text to batches that `fit` takes, at a position that can be entered again."""

import collections
import hashlib

import grain

from keras_textdiff.data.packing import pack_segments
from keras_textdiff.utils import random
from keras_textdiff.utils.checks import check_integer

READ_AHEAD = 2  # groups made before they are needed
STATES_KEPT = 256  # batches that training may lag behind reading


def pipeline(
    rows, preprocessor, *, batch_size, pack=False, seed=0, sequence_length=None, group_size=64
):
    """Tokenize, format, pack and batch a stream of rows.

    Documents longer than a row give several examples, so nothing is cut but responses that do not
    fit behind their prompts. Work is done for a group of rows at a time: they are tokenized
    together, packed together, and their examples shuffled. What comes out of a group depends on
    its rows, their position and the seed alone, so the same seed gives the same batches, and a
    saved state leads back to an exact position (see `ResumableDataset`).

    Args:
        rows: `grain.MapDataset` or `grain.IterDataset` of rows, as `mixture` or one of the sources
            gives them: dicts of "text", or of "prompts" and "responses".
        preprocessor: preprocessor of the model; its `format` applies to documents.
        batch_size: int, rows of a batch; with several processes, of each process.
        pack: bool, whether several examples share a row, each seeing itself alone. Packed rows
            have no learned padding: a diffusion model learns from them that a text ends, but not
            to fill a canvas behind its end. Meant for pretraining.
        seed: int, of formats and order.
        sequence_length: int or None, length L of a row; None means the preprocessor's.
        group_size: int, rows that are tokenized, packed and shuffled together.

    Returns:
        `ResumableDataset` of batches as `fit` takes them; it ends where `rows` does. For a
        mixture, which does not end, pass `steps_per_epoch` to `fit`.

    Raises:
        ValueError: for sizes below 1; while reading, for rows of another kind.

    Example:
    ```python
    rows = keras_textdiff.data.mixture([web, code], weights=[0.8, 0.2])
    dataset = keras_textdiff.data.pipeline(rows, lm.preprocessor, batch_size=32, pack=True)
    lm.fit(dataset, steps_per_epoch=1000, epochs=10)
    ```
    """
    for name, value in (("batch_size", batch_size), ("group_size", group_size)):
        check_integer(name, value, minimum=1)
    check_integer("seed", seed)
    if pack and preprocessor.prefix_length is not None:
        raise ValueError(
            "Packed rows are for models without an encoder. Got a preprocessor with a "
            f"`prefix_length` of {preprocessor.prefix_length}. Pass pack=False."
        )
    length = preprocessor.sequence_length if sequence_length is None else sequence_length
    check_integer("sequence_length", length, minimum=2)

    def make_group(index, group):
        keys = [(seed, index * group_size + place, _digest(row)) for place, row in enumerate(group)]
        examples = preprocessor.make_examples(group, keys, length)
        generator = random.generator("order", seed, index)
        if pack:
            return pack_segments(examples, length, preprocessor.end_token_id, generator)
        examples = [examples[place] for place in generator.permutation(len(examples))]
        prefixes, targets = [list(part) for part in zip(*examples, strict=True)] or ([], [])
        return preprocessor.pack(
            prefixes, targets, length, learn_padding=preprocessor.learn_padding
        )

    groups = rows.batch(group_size, batch_fn=list).map_with_index(make_group)
    if isinstance(groups, grain.MapDataset):
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)
        groups = groups.to_iter_dataset(options)
    else:
        groups = grain.experimental.ThreadPrefetchIterDataset(
            groups, prefetch_buffer_size=READ_AHEAD
        )
    groups = groups.filter(lambda group: len(group["token_ids"]) > 0)
    return ResumableDataset(grain.experimental.RebatchIterDataset(groups, batch_size))


class ResumableDataset(grain.IterDataset):
    """Batches that go on where a run has stopped.

    `fit` reads ahead of training, so the position of its iterator says little about what has been
    trained on. This dataset keeps the state behind each of the last 256 batches that it handed
    out.

    Args:
        dataset: `grain.IterDataset`.
        state: None, or a state of an equal dataset; reading starts there.

    Example:
    ```python
    dataset = keras_textdiff.data.pipeline(rows, lm.preprocessor, batch_size=32)
    lm.fit(dataset, steps_per_epoch=100)
    state = dataset.state_after(100)  # plain numbers in dicts: `json.dump` keeps it
    dataset = keras_textdiff.data.ResumableDataset(dataset, state)  # goes on with batch 101
    ```
    """

    def __init__(self, dataset, state=None):
        super().__init__(dataset)
        self._state = state
        self._iterator = None

    def __iter__(self):
        """Start reading, at the state given on construction or the beginning."""
        iterator = iter(self._parent)
        if self._state is not None:
            iterator.set_state(self._state)
        self._iterator = _ResumableIterator(iterator)
        return self._iterator

    def state_after(self, num_batches):
        """Return the state behind the first `num_batches` batches of the latest iteration.

        Raises:
            ValueError: where that many were not read, or 256 more were read since.
        """
        states = {} if self._iterator is None else self._iterator.states
        if num_batches not in states:
            known = f"{min(states)} to {max(states)}" if states else "none, nothing was read"
            raise ValueError(f"The state after {num_batches} batches is not known. Known: {known}.")
        return states[num_batches]


class _ResumableIterator(grain.DatasetIterator):
    def __init__(self, parent):
        super().__init__(parent)
        self._count = 0
        self.states = collections.OrderedDict({0: parent.get_state()})

    def __next__(self):
        batch = next(self._parent)
        self._count += 1
        self.states[self._count] = self._parent.get_state()
        if len(self.states) > STATES_KEPT:
            self.states.popitem(last=False)
        return batch

    def get_state(self):
        return self._parent.get_state()

    def set_state(self, state):
        self._parent.set_state(state)
        self._count = 0
        self.states = collections.OrderedDict({0: state})


def _digest(row):
    text = repr(sorted(row.items()) if isinstance(row, dict) else row)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
