import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils.categorical import categorical_from_uniform, most_likely
from tests.tiny import to_numpy


def draw(logits, uniforms):
    tensors = ops.convert_to_tensor(logits, "float32"), ops.convert_to_tensor(uniforms, "float32")
    return to_numpy(categorical_from_uniform(*tensors))


@pytest.mark.parametrize("vocabulary_size", [1, 2, 255, 256, 257, 1000])
def test_it_inverts_the_cumulative_distribution(vocabulary_size):
    rng = np.random.default_rng(vocabulary_size)
    logits = rng.normal(0, 2, (300, vocabulary_size)).astype("float32")
    uniforms = rng.random(300).astype("float32")
    masses = np.exp(logits.astype("float64") - logits.max(axis=1, keepdims=True))
    cumulative = masses.cumsum(axis=1) / masses.sum(axis=1, keepdims=True)
    expected = (cumulative <= uniforms[:, None]).sum(axis=1)
    # Leave out draws that lie within rounding of a boundary.
    distance = np.abs(cumulative - uniforms[:, None]).min(axis=1)
    clear = distance > 1e-5
    np.testing.assert_array_equal(draw(logits, uniforms)[clear], expected[clear])
    assert clear.mean() > 0.9


def test_frequencies_are_the_probabilities():
    probabilities = np.array([0.05, 0.0, 0.6, 0.35])
    logits = np.log(np.maximum(probabilities, 1e-30))
    uniforms = (np.arange(10_000) + 0.5) / 10_000
    drawn = draw(np.tile(logits, (10_000, 1)), uniforms)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 10_000, probabilities, atol=2e-4)


@pytest.mark.parametrize("uniform", [2.0**-24, 1 - 2.0**-24])
@pytest.mark.parametrize("position", [0, 255, 256, 399])
def test_a_token_without_mass_is_never_drawn(uniform, position):
    logits = np.full((1, 400), -1e4, "float32")
    logits[0, position] = 3.0
    assert draw(logits, [uniform]) == [position]


@pytest.mark.parametrize("vocabulary_size", [300, 301, 307, 383, 500])
def test_a_draw_stays_inside_the_vocabulary(vocabulary_size):
    logits = np.random.default_rng(0).normal(0, 1, (500, vocabulary_size)).astype("float32")
    # Rounding takes some of the thresholds past the sum of all masses.
    drawn = draw(logits, np.full(500, 1 - 2.0**-24))
    assert drawn.max() < vocabulary_size
    assert np.median(drawn) == vocabulary_size - 1


def test_most_likely_is_argmax_and_stays_inside_the_vocabulary():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (2, 50, 7)).astype("float32")  # many ties: the first counts
    expected = logits.argmax(axis=-1)
    np.testing.assert_array_equal(ops.convert_to_numpy(most_likely(logits)), expected)
    index = ops.convert_to_numpy(most_likely(np.full((1, 7), np.nan, "float32")))
    assert 0 <= index[0] < 7
