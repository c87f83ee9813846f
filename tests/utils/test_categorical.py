import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils.categorical import (
    categorical_from_uniform,
    draw,
    has_distribution,
    most_likely,
)
from tests.tiny import to_numpy


def draw_from(logits, uniforms):
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
    np.testing.assert_array_equal(draw_from(logits, uniforms)[clear], expected[clear])
    assert clear.mean() > 0.9


def test_frequencies_are_the_probabilities():
    probabilities = np.array([0.05, 0.0, 0.6, 0.35])
    logits = np.log(np.maximum(probabilities, 1e-30))
    uniforms = (np.arange(10_000) + 0.5) / 10_000
    drawn = draw_from(np.tile(logits, (10_000, 1)), uniforms)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 10_000, probabilities, atol=2e-4)


@pytest.mark.parametrize("uniform", [2.0**-24, 1 - 2.0**-24])
@pytest.mark.parametrize("position", [0, 255, 256, 399])
def test_a_token_without_mass_is_never_drawn(uniform, position):
    logits = np.full((1, 400), -1e4, "float32")
    logits[0, position] = 3.0
    assert draw_from(logits, [uniform]) == [position]


@pytest.mark.parametrize("vocabulary_size", [300, 301, 307, 383, 500])
def test_a_draw_stays_inside_the_vocabulary(vocabulary_size):
    logits = np.random.default_rng(0).normal(0, 1, (500, vocabulary_size)).astype("float32")
    # Rounding takes some of the thresholds past the sum of all masses.
    drawn = draw_from(logits, np.full(500, 1 - 2.0**-24))
    assert drawn.max() < vocabulary_size
    assert np.median(drawn) == vocabulary_size - 1


@pytest.mark.parametrize("compiled", [True, False])
def test_most_likely_is_argmax_and_stays_inside_the_vocabulary(compiled):
    function = most_likely
    if compiled:
        if keras.config.backend() != "tensorflow":
            pytest.skip("The same operations as without.")
        import tensorflow as tf

        function = tf.function(most_likely, jit_compile=True)
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (2, 50, 7)).astype("float32")  # many ties: the first counts
    expected = logits.argmax(axis=-1)
    np.testing.assert_array_equal(ops.convert_to_numpy(function(logits)), expected)
    index = ops.convert_to_numpy(function(np.full((1, 7), np.nan, "float32")))
    assert 0 <= index[0] < 7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_drawing_leaves_the_logits_as_they_are(dtype):
    rng = np.random.default_rng(0)
    logits = ops.cast(ops.convert_to_tensor(rng.normal(size=(2, 5, 33)), "float32"), dtype)
    before = to_numpy(ops.cast(logits, "float32")).copy()
    uniforms = ops.convert_to_tensor(rng.random((2, 5)).astype("float32"))
    tokens = draw(logits, uniforms, 0.5)
    np.testing.assert_array_equal(to_numpy(ops.cast(logits, "float32")), before)
    masses = np.exp(before.astype("float64") / 0.5)
    totals = masses.cumsum(-1) / masses.sum(-1, keepdims=True)
    expected = (totals <= to_numpy(uniforms)[..., None]).sum(-1)
    assert np.mean(to_numpy(tokens) == expected) >= 0.9  # rounding may move a draw


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_without_a_distribution_are_seen(bad, dtype):
    rows = np.random.default_rng(0).normal(size=(40, 333)).astype("float32")
    expected = np.ones(40, bool)
    expected[::7] = False
    for row in range(0, 40, 7):
        rows[row, :] = bad if bad == -np.inf else rows[row, :]
        rows[row, row * 8] = bad  # wherever it stands
    rows[1, 5] = -np.inf  # a token that cannot be
    seen = has_distribution(ops.cast(ops.convert_to_tensor(rows), dtype))
    np.testing.assert_array_equal(to_numpy(seen), expected)
