import numpy as np
import pytest

from keras_textdiff.data.packing import best_fit, pack_segments

pytestmark = pytest.mark.backend_free


def random_examples(seed, length):
    """Examples whose tokens tell where they come from: number * 1000 + place."""
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(1, int(rng.integers(2, 60))):
        size = int(rng.integers(1, length + 1))
        tokens = [number * 1000 + place for place in range(size)]
        split = int(rng.integers(size))
        examples.append((tokens[:split], tokens[split:]))
    return examples


@pytest.mark.parametrize("seed", range(30))
def test_packing_loses_nothing_and_mixes_nothing(seed):
    length = 5 + 7 * seed
    examples = random_examples(seed, length)
    rows = pack_segments(examples, length, 0, np.random.default_rng(seed))
    assert {array.shape for array in rows.values()} == {(len(rows["token_ids"]), length)}
    found = []
    for row in range(len(rows["token_ids"])):
        ids, segments = rows["token_ids"][row], rows["segment_ids"][row]
        used = int((segments > 0).sum())
        assert (segments[:used] > 0).all() and (ids[used:] == 0).all()  # padding is behind
        assert (np.diff(segments[:used]) >= 0).all() and (np.diff(segments[:used]) <= 1).all()
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            prompt = here & rows["prompt_mask"][row]
            target = here & rows["target_mask"][row]
            assert (prompt ^ target)[here].all()
            found.append((ids[prompt].tolist(), ids[target].tolist()))
    assert sorted(found) == sorted(examples)
    np.testing.assert_array_equal(rows["padding_mask"], rows["segment_ids"] > 0)
    assert not rows["target_mask"][~rows["padding_mask"]].any()


def test_best_fit_fills_rows():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 100, 1000).tolist()
    rows = best_fit(sizes, 128)
    assert sorted(index for row in rows for index in row) == list(range(1000))
    assert max(sum(sizes[index] for index in row) for row in rows) <= 128
    # No packing has fewer rows than the tokens need; best fit is within 11/9 of the best.
    assert len(rows) <= np.ceil(sum(sizes) / 128) * 11 / 9 + 1
    assert best_fit([4, 3, 2, 5, 1], 5) == [[3], [0, 4], [1, 2]]
    assert best_fit([], 5) == []


def test_an_example_longer_than_a_row_is_cut():
    rows = pack_segments([([1, 2], [3, 4, 5])], 4, 0, np.random.default_rng(0))
    np.testing.assert_array_equal(rows["token_ids"], [[1, 2, 3, 4]])
    np.testing.assert_array_equal(rows["target_mask"], [[False, False, True, True]])
