"""Several sources as one stream of rows."""

import grain

from keras_textdiff.utils import random
from keras_textdiff.utils.checks import check_integer, check_number
from keras_textdiff.utils.processes import row_part

SHUFFLE_WINDOW = 1024  # rows held in memory to shuffle a source without random access
SMALL = 2**16  # rows below which grain's own shuffling takes milliseconds a row


def mixture(sources, weights=None, *, seed=0, process_index=None, process_count=None):
    """Mix sources of rows in fixed proportions, without end.

    Each source is shuffled anew every time it has been read through, so a small one comes round
    more often than a large one. Proportions hold in every stretch of the stream. The same
    arguments give the same rows in the same order, and every position can be entered again.

    Each process reads its own part of every source; processes that share rows, under tensor
    parallel, read the same. Call `keras_textdiff.distribution.initialize` and set the distribution
    before.

    Args:
        sources: list of `grain.MapDataset` or `grain.IterDataset` of rows, as the sources in
            `keras_textdiff.data` are; those without random access are shuffled in a window of
            1024 rows.
        weights: list of positive numbers, how often each source is drawn from, exact to 1%; None
            means equally often.
        seed: int of all shuffling.
        process_index: int, whose part this is; None means that of this process.
        process_count: int, how many parts there are; None means as many as processes, or groups
            of processes that share rows.

    Returns:
        `grain.MapDataset`, or `grain.IterDataset` where one of the sources is.

    Raises:
        ValueError: for weights that do not fit the sources, or a source with fewer rows than
            there are processes.

    Example:
    ```python
    web, code = keras_textdiff.data.named_source("mc4/en"), keras_textdiff.data.python_source()
    rows = keras_textdiff.data.mixture([web, code], weights=[0.8, 0.2], seed=7)
    ```

    Reference: Han et al. 2024, arXiv 2401.17181, section 4.1: 80% web text, 20% Python.
    """
    sources = list(sources)
    weights = [1.0] * len(sources) if weights is None else list(weights)
    if not sources or len(sources) != len(weights):
        raise ValueError(
            f"A mixture needs as many weights as sources. Got {len(sources)} sources and "
            f"{len(weights)} weights."
        )
    weights = [check_number("weights entry", weight, minimum=1e-9) for weight in weights]
    check_integer("seed", seed)
    if process_index is None or process_count is None:
        process_index, process_count = row_part()
    check_integer("process_count", process_count, minimum=1)
    check_integer("process_index", process_index, minimum=0, maximum=process_count - 1)
    streams = []
    for index, source in enumerate(sources):
        shuffle_seed = int(random.generator("mixture", seed, index).integers(2**31))
        if isinstance(source, grain.MapDataset):
            if len(source) < process_count:
                raise ValueError(
                    f"Source {index} has {len(source)} rows, fewer than the {process_count} "
                    "processes that share them."
                )
            if len(source) < SMALL:
                source = _Shuffled(source, shuffle_seed)
            else:
                source = source.shuffle(shuffle_seed)
            streams.append(source[process_index::process_count].repeat())
        elif isinstance(source, grain.IterDataset):
            part = _every(source, process_index, process_count)
            part = grain.experimental.RepeatIterDataset(part)
            streams.append(
                grain.experimental.WindowShuffleIterDataset(
                    part, window_size=SHUFFLE_WINDOW, seed=shuffle_seed
                )
            )
        else:
            raise ValueError(
                f"Source {index} must be a grain.MapDataset or grain.IterDataset. Got "
                f"{type(source).__name__}. Wrap a list in `grain.MapDataset.source`."
            )
    if all(isinstance(stream, grain.MapDataset) for stream in streams):
        return grain.MapDataset.mix(streams, weights)
    streams = [
        stream.to_iter_dataset() if isinstance(stream, grain.MapDataset) else stream
        for stream in streams
    ]
    return grain.IterDataset.mix(streams, weights)


class _Shuffled(grain.MapDataset):
    """A small dataset in another order each round, by a permutation in memory."""

    def __init__(self, parent, seed):
        super().__init__(parent)
        self._seed = seed
        self._round = None  # (number, permutation)

    def __len__(self):
        return len(self._parent)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        number, place = divmod(index, len(self))
        current = self._round  # read once: other threads may replace it
        if current is None or current[0] != number:
            order = random.generator("shuffle", self._seed, number).permutation(len(self))
            self._round = current = (number, order)
        return self._parent[int(current[1][place]) + number * len(self)]


def _every(source, start, step):
    """Return the rows `start`, `start + step`, ... of a source without random access."""
    if step == 1:
        return source
    numbered = source.map_with_index(lambda index, row: (index, row))
    return numbered.filter(lambda pair: pair[0] % step == start).map(lambda pair: pair[1])
