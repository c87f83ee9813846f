"""Batches that are read one after the other, pass by pass, from any position on."""

import collections
import itertools

import grain

from keras_textdiff.data.batches import batch_shape
from keras_textdiff.utils import random
from keras_textdiff.utils.errors import error_kept

LOOK_AHEAD = 2  # batches that Keras reads to learn their shapes, before training begins


class BatchStream(grain.IterDataset):
    """The batches of a source, as a dataset that Keras iterates.

    Args:
        source: `IterableSource`, `GrainSource` or `IndexedSource`.
        endless: bool, whether a new pass begins where one ends; otherwise each iterator reads one
            pass.
    """

    def __init__(self, source, endless=False):
        super().__init__()
        self.error = None
        self._source = source
        self._endless = endless
        self._training = False
        self._passes = 0
        self._num_batches = 0
        self._positions = None
        self._resumed = None
        self._index = 0
        self._num_stand_ins = 0
        self._shapes = None

    def __iter__(self):
        return _StreamIterator(self)

    def begin(self):
        """Count from here: Keras has looked at some batches, and training begins."""
        self._training = True
        self._passes = self._num_batches = 0
        if self._shapes is not None:
            self._shapes.clear()

    def note_shapes(self):
        """Keep the shapes of batches from here on, until they are asked for."""
        self._shapes = collections.deque()

    def next_shape(self, index):
        """Return the `batch_shape` of the next batch that was trained on.

        Args:
            index: not used; see `IndexedBatches.next_shape`.
        """
        return self._shapes.popleft() if self._shapes else None

    def follow(self, position=None, num_stand_ins=0):
        """After `begin`, note positions, and go to the one that is given.

        Args:
            position: what `position()` returned in another run, or None for the start.
            num_stand_ins: int, batches that are read first, but not trained on; they are not
                made.

        Raises:
            ValueError: where the data end before the position.
        """
        self._positions = {0: (0, 0, None)}
        if position is not None:
            self._passes, self._index = position["pass"], position["index"]
            self._resumed = self._source.reopen(position)
            self._num_stand_ins = num_stand_ins
            self._positions = {num_stand_ins: (self._passes, self._index, position["state"])}

    def position(self, num_batches, epoch_ended):
        """Return where training stands, as a JSON value.

        Args:
            num_batches: int, batches trained on since `begin`, stand-ins included; others may
                have been read ahead.
            epoch_ended: bool, whether the next batch belongs to a new epoch.
        """
        for number in [number for number in self._positions if number < num_batches]:
            del self._positions[number]
        passes, index, state = self._positions[num_batches]
        if epoch_ended and not self._endless:
            passes, index, state = passes + 1, 0, None
        return {"pass": passes, "index": index, "state": state}

    def describe(self):
        """Return what tells one data set from another."""
        return self._source.describe()

    def _open(self):
        """Return a pass and the number of its batches that have been read."""
        if self._training:
            self._source.begin_pass()
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            return resumed, self._index
        return self._source.open(), 0

    def _handed_out(self, batch, batches, index):
        self._num_batches += 1
        if self._shapes is not None:
            self._shapes.append(batch_shape(batch))
        if self._positions is not None:
            self._positions[self._num_batches] = (self._passes, index, self._source.state(batches))

    def _end_pass(self):
        if self._training:
            self._passes += 1
            self._source.end_pass()


class _StreamIterator(grain.DatasetIterator):
    def __init__(self, stream):
        super().__init__()
        self._stream = stream
        self._pass = None
        self._index = 0
        self._ended = False

    def __next__(self):
        with error_kept(self._stream):
            return self._next_batch()

    def _next_batch(self):
        stream = self._stream
        if stream._num_stand_ins:
            stream._num_stand_ins -= 1
            stream._num_batches += 1
            return stream._source.first_batch
        while not self._ended:
            if self._pass is None:
                self._pass, self._index = stream._open()
            try:
                batch = stream._source.take(self._pass)
            except StopIteration:
                stream._end_pass()
                self._ended = not stream._endless or self._index == 0
                self._pass = None
                continue
            self._index += 1
            stream._handed_out(batch, self._pass, self._index)
            return batch
        raise StopIteration

    def get_state(self):
        return {"index": self._index}

    def set_state(self, state):
        raise NotImplementedError("Positions are restored by the stream, not by its iterators.")


class IterableSource:
    """Anything that can be iterated again, read from its start.

    Args:
        iterable: yields batches.
        prepare: callable `(examples, epoch) -> batch`.
    """

    def __init__(self, iterable, prepare):
        self._iterable = iterable
        self._prepare = prepare
        self.first_batch = None

    def open(self):
        """Return the iterator of a new pass."""
        self._random_states = random.get_states()
        return iter(self._iterable)

    def reopen(self, position):
        """Return an iterator at `position`, or None for that of a new pass.

        All that was read before is read again, so that an iterable which counts, or draws random
        numbers of its own, comes to where it was. The last pass opens with the random streams
        that it had opened with.
        """
        for _ in range(position["pass"]):
            for _ in self.open():
                pass
        if not position["index"]:
            return None
        random.set_states(position["state"])
        iterator = self.open()
        for index in range(position["index"]):
            try:
                next(iterator)
            except StopIteration:
                raise ValueError(
                    f"The data ended after {index} batches, and the run to resume had read "
                    f"{position['index']}. Pass the same data as before."
                ) from None
        return iterator

    def take(self, iterator):
        """Return the next tokenized batch."""
        batch = self._prepare(next(iterator), 0)
        if self.first_batch is None:
            self.first_batch = batch
        return batch

    def state(self, iterator):
        """Return what `reopen` needs besides the position, as a JSON value."""
        return self._random_states

    def begin_pass(self):
        """Hear that training comes to a new pass, or to one that goes on."""

    def end_pass(self):
        """Hear that training came to the end of a pass."""

    def describe(self):
        """Return what tells one data set from another."""
        return {"kind": type(self._iterable).__name__}


class GrainSource(IterableSource):
    """A grain dataset or loader, whose iterators can be set to where they were."""

    def reopen(self, position):
        """Return an iterator at `position`, or None for that of a new pass."""
        state = position["state"]
        if not position["index"]:
            return None
        if isinstance(state, dict) and set(state) == {"random"}:
            return super().reopen({**position, "state": state["random"]})
        iterator = self.open()
        iterator.set_state(state.encode("latin1") if isinstance(state, str) else state)
        return iterator

    def state(self, iterator):
        """Return the iterator's state."""
        try:
            state = iterator.get_state()
        except NotImplementedError:  # a dataset that must be read again
            return {"random": super().state(iterator)}
        return state.decode("latin1") if isinstance(state, bytes) else state


class IndexedSource:
    """`IndexedBatches` as one pass after the other.

    Args:
        batches: `IndexedBatches`.
    """

    def __init__(self, batches):
        self._batches = batches
        self.first_batch = None

    def open(self):
        """Return the indices of a new pass."""
        return self._indices(0)

    def reopen(self, position):
        """Return the indices from `position` on."""
        self._batches.follow(position["state"])
        return self._indices(position["index"])

    def _indices(self, start):
        stop = self._batches.num_batches
        return itertools.count(start) if stop is None else iter(range(start, stop))

    def take(self, indices):
        """Return the next tokenized batch."""
        batch = self._batches[next(indices)]
        if self.first_batch is None:
            self.first_batch = batch
        return batch

    def state(self, indices):
        """Return the epoch and the seed of the shuffling."""
        return self._batches.position(0, epoch_ended=False)

    def begin_pass(self):
        """Pass the call on."""
        self._batches.on_epoch_begin()

    def end_pass(self):
        """Move to the next order."""
        self._batches.on_epoch_end()

    def describe(self):
        """Return what tells one data set from another."""
        return self._batches.describe()


class Once:
    """A generator, which can be read once, made readable twice at its start.

    Args:
        iterator: yields batches.
        num_steps: int or None, batches it must yield.
    """

    def __init__(self, iterator, num_steps):
        self._iterator = self._checked(iterator, num_steps)
        self._ahead = []

    def __iter__(self):
        for index in range(LOOK_AHEAD):
            if index == len(self._ahead):
                try:
                    self._ahead.append(next(self._iterator))
                except StopIteration:
                    return
            yield self._ahead[index]
        self._ahead = []
        yield from self._iterator

    @staticmethod
    def _checked(iterator, num_steps):
        count = 0
        for batch in iterator:
            count += 1
            yield batch
        if num_steps is not None and count < num_steps:
            raise ValueError(
                f"The generator ended after {count} batches; {num_steps} are needed "
                "(steps_per_epoch times epochs). Pass fewer steps, or a dataset that can be "
                "read again."
            )
