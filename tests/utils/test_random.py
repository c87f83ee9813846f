import keras
import numpy as np
import pytest

from keras_textdiff.utils import random


def test_a_stream_depends_on_name_seed_key_and_step():
    draws = {
        tuple(random.generator(*arguments, step=step).integers(0, 2**31, 4))
        for arguments in [("a", 0), ("b", 0), ("a", 1), ("a", 0, "row"), ("a", 0, "row", 1)]
        for step in (0, 1)
    }
    assert len(draws) == 10
    first, again = (random.generator("a", 3, "row").integers(0, 99, 8) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_a_stream_is_the_same_on_every_machine():
    drawn = random.uniform(random.generator("tokens", 7, "row", step=3), 3)
    np.testing.assert_array_equal(drawn, np.float32(GOLDEN))


@pytest.mark.parametrize("length", [1, 5, 64])
def test_longer_draws_begin_with_shorter_ones(length):
    long = random.uniform(random.generator("a", 1), 100)
    np.testing.assert_array_equal(random.uniform(random.generator("a", 1), length), long[:length])
    ids = random.generator("a", 1).integers(0, 50257, 100)
    np.testing.assert_array_equal(random.generator("a", 1).integers(0, 50257, length), ids[:length])


def test_uniform_stays_inside_the_open_interval():
    class Extremes:
        def integers(self, low, high, size, dtype):
            return np.array([low, high - 1], dtype=dtype)

    low, high = random.uniform(Extremes(), 2)
    assert 0 < low < high < 1
    drawn = random.uniform(random.generator("a", 0), 100_000)
    assert abs(drawn.mean() - 0.5) < 0.005
    assert abs(drawn.var() - 1 / 12) < 0.002


def test_row_keys_follow_content_and_count_repetitions():
    keys = random.row_keys([[1, 2], [3], [1, 2]])
    assert keys[0][0] == keys[2][0] != keys[1][0]
    assert [key[1] for key in keys] == [0, 0, 1]
    assert random.row_keys([[3]])[0] == keys[1]


def test_fresh_seeds_follow_the_keras_seed():
    keras.utils.set_random_seed(5)
    first = [random.fresh_seed() for _ in range(2)]
    keras.utils.set_random_seed(5)
    assert first == [random.fresh_seed() for _ in range(2)]
    assert first[0] != first[1]


GOLDEN = [0.5899996161460876, 0.981203019618988, 0.5995931029319763]
