"""Mixtures: exact proportions, every row once a round, one part for each process."""

import collections

import grain
import pytest

from keras_textdiff.data import mixture

pytestmark = pytest.mark.backend_free


class Numbers(grain.IterDataset):
    """A source without random access."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def __iter__(self):
        return NumbersIterator(self.rows)


class NumbersIterator(grain.DatasetIterator):
    def __init__(self, rows):
        super().__init__()
        self.rows, self.place = rows, 0

    def __next__(self):
        if self.place == len(self.rows):
            raise StopIteration
        self.place += 1
        return self.rows[self.place - 1]

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


WEB = [("web", number) for number in range(40)]
CODE = [("code", number) for number in range(7)]
KINDS = {"random access": grain.MapDataset.source, "a stream": Numbers}


def take(dataset, count, state=None):
    if isinstance(dataset, grain.MapDataset):
        dataset = dataset.to_iter_dataset(grain.ReadOptions(num_threads=0))
    iterator = iter(dataset)
    if state is not None:
        iterator.set_state(state)
    return [next(iterator) for _ in range(count)]


def mix(kind="random access", **options):
    return mixture([grain.MapDataset.source(WEB), KINDS[kind](CODE)], [0.8, 0.2], **options)


@pytest.mark.parametrize("kind", KINDS)
def test_proportions_hold_in_every_stretch(kind):
    rows = take(mix(kind), 400)
    for start in range(0, 400, 5):
        assert [name for name, _ in rows[start : start + 5]].count("web") == 4


def test_a_large_source_is_shuffled_too():
    rows = mixture([grain.MapDataset.range(70_000)], seed=1)
    first = [rows[index] for index in range(2000)]
    second = [rows[index] for index in range(70_000, 72_000)]
    assert len(set(first)) == len(set(second)) == 2000 and first != second
    assert 30_000 < sum(first) / 2000 < 40_000


@pytest.mark.parametrize("weights", [[7, 3], [1, 1, 1], [0.5, 0.3, 0.2], [1, 99]])
def test_proportions_of_other_weights(weights):
    sources = [grain.MapDataset.source([index] * 10) for index in range(len(weights))]
    counts = collections.Counter(take(mixture(sources, weights), 2000))
    for index, weight in enumerate(weights):
        assert counts[index] / 2000 == pytest.approx(weight / sum(weights), rel=0.011)


def test_every_round_has_each_row_once_in_another_order():
    web = [row for row in take(mix(), 200) if row[0] == "web"]
    rounds = [web[start : start + 40] for start in range(0, 160, 40)]
    assert all(sorted(rows) == WEB for rows in rounds)
    assert len({tuple(rows) for rows in [*rounds, WEB]}) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_rows(kind):
    assert take(mix(kind, seed=3), 100) == take(mix(kind, seed=3), 100)
    assert take(mix(kind, seed=3), 100) != take(mix(kind, seed=4), 100)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 5])
def test_processes_share_the_rows(kind, count):
    """Also where their number divides the period of the mixture: each has its 80 and 20."""
    parts = [take(mix(kind, process_index=i, process_count=count), 500) for i in range(count)]
    for rows in parts:
        assert [name for name, _ in rows].count("web") == 400
    for rows in (WEB, CODE):
        name = rows[0][0]
        owners = [{row for row in part if row[0] == name} for part in parts]
        if name == "code" and kind == "a stream":
            assert sum(map(len, owners)) == len(rows)  # always the same part
        assert set().union(*owners) == set(rows)
    # In one round of a source, no row is in two parts.
    first = [[row for row in part if row[0] == "web"][: 40 // count] for part in parts]
    assert len({row for part in first for row in part}) == count * (40 // count)


def test_a_stream_without_end_is_shuffled_anew_each_round():
    rows = take(mixture([Numbers(CODE)]), 2048)
    assert rows[:1024] != rows[1024:] and rows != (CODE * 300)[:2048]
    # The window takes 1024 rows at a time, in order: 146 rounds and two rows.
    counts = collections.Counter(rows[:1024])
    assert sorted(counts) == CODE and set(counts.values()) == {146, 147}


def test_a_position_can_be_entered_again():
    dataset = mix("a stream")
    rows, iterator = take(dataset, 60), iter(dataset)
    for position in range(15):  # three times around the proportions
        assert take(dataset, 20, iterator.get_state()) == rows[position : position + 20]
        next(iterator)


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {}, "as many weights as sources"),
        ([WEB, CODE], {"weights": [1]}, "2 sources and 1 weights"),
        ([WEB, CODE], {"weights": [1, 0]}, "at least 1e-09"),
        ([WEB, CODE], {"weights": [1, float("nan")]}, "finite"),
        ([CODE], {"process_index": 0, "process_count": 8}, "7 rows, fewer than the 8 processes"),
        ([CODE], {"process_index": 2, "process_count": 2}, "at most 1"),
        ([CODE], {"seed": 0.5}, "`seed` must be an integer"),
    ],
)
def test_bad_mixtures_are_refused(sources, options, message):
    with pytest.raises(ValueError, match=message):
        mixture([grain.MapDataset.source(rows) for rows in sources], **options)


def test_a_list_is_no_source():
    with pytest.raises(ValueError, match=r"Source 0.*Got list.*grain\.MapDataset\.source"):
        mixture([WEB])
