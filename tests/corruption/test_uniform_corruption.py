import keras
import numpy as np
import pytest

from keras_textdiff.corruption import UniformCorruption
from tests.tiny import to_numpy


def corrupt(corruption, shape=(400, 50), vocabulary_size=1000):
    target_mask = np.ones(shape, bool)
    target_mask[:, :10] = False
    token_ids = np.full(shape, 7, "int32")
    seed = keras.random.SeedGenerator(1)
    canvas, noise_mask = corruption(token_ids, target_mask, vocabulary_size, seed)
    return to_numpy(canvas), to_numpy(noise_mask), target_mask


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_a_fixed_level_corrupts_that_share_of_the_target(level):
    canvas, noise_mask, target_mask = corrupt(UniformCorruption(level, level))
    assert noise_mask[target_mask].mean() == pytest.approx(level, abs=0.01)
    assert not noise_mask[~target_mask].any()
    assert (canvas[~noise_mask] == 7).all()
    if level:
        drawn = canvas[noise_mask]
        assert drawn.min() >= 0 and drawn.max() < 1000
        assert drawn.mean() == pytest.approx(499.5, abs=10)


def test_the_level_is_uniform_over_rows():
    _, noise_mask, _ = corrupt(UniformCorruption(), shape=(2000, 210))
    levels = noise_mask[:, 10:].mean(axis=1)
    counts, _ = np.histogram(levels, bins=10, range=(0, 1))
    assert counts.min() > 140 and counts.max() < 260


@pytest.mark.parametrize("bounds", [(-0.1, 1), (0, 1.1), (0.6, 0.5)])
def test_bad_bounds(bounds):
    with pytest.raises(ValueError, match="must be at"):
        UniformCorruption(*bounds)
