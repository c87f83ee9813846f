import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.evaluation.uniform_posterior import posterior_divergence
from tests import tiny


def divergence(probabilities, target, canvas, step, num_steps):
    """Compute one position's divergence in float64, from V x V transition matrices."""
    size = len(probabilities)

    def transition(survival):
        return survival * np.eye(size) + (1 - survival) / size  # [from, to]

    alpha_s, alpha_t = 1 - (step - 1) / num_steps, 1 - step / num_steps
    one_step = transition(alpha_t / alpha_s)

    def posterior(clean):
        joint = transition(alpha_s)[clean] * one_step[:, canvas]
        return joint / joint.sum()

    true = posterior(target)
    model = sum(probabilities[clean] * posterior(clean) for clean in range(size))
    possible = true > 0
    return (true * np.log(np.where(possible, true, 1) / model))[possible].sum()


def ours(logits, targets, canvas, steps, num_steps):
    count = len(targets)
    return tiny.to_numpy(
        posterior_divergence(
            ops.convert_to_tensor(np.array(logits, "float32")),
            ops.convert_to_tensor(np.array(targets, "int32")),
            ops.convert_to_tensor(np.array(canvas, "int32")),
            ops.convert_to_tensor(np.array(steps, "float32")),
            ops.convert_to_tensor(np.full(count, num_steps, "float32")),
        )
    )


@pytest.mark.parametrize("size", [2, 3, 40])
def test_equals_the_matrices(size):
    rng = np.random.default_rng(0)
    for num_steps, scale in itertools.product([1, 2, 100], [0.1, 1, 10]):
        compare_with_matrices(rng, size, scale, num_steps)


def compare_with_matrices(rng, size, scale, num_steps, count=30):
    logits = rng.normal(0, scale, (count, size)).astype("float32")
    targets = rng.integers(0, size, count)
    canvas = np.where(rng.random(count) < 0.5, targets, rng.integers(0, size, count))
    steps = rng.integers(1, num_steps + 1, count)
    exact = np.exp(logits.astype("float64"))
    exact /= exact.sum(axis=1, keepdims=True)
    expected = [
        divergence(exact[row], targets[row], canvas[row], steps[row], num_steps)
        for row in range(count)
    ]
    result = ours(logits, targets, canvas, steps, num_steps)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=2e-6)


def test_a_perfect_denoiser_costs_nothing():
    size, num_steps = 50_000, 1000
    targets = np.array([7, 7, 7, 7])
    logits = np.full((4, size), -60.0)
    logits[:, 7] = 60
    result = ours(logits, targets, [7, 3, 7, 3], [1, 1, 500, 500], num_steps)
    np.testing.assert_allclose(result, 0, atol=1e-9)


def test_the_bound_of_the_true_posterior_is_the_likelihood():
    """A denoiser that knows p(x0 | xt) reverses the corruption, and the bound is tight."""
    data = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    size, num_steps = len(data), 6
    bound = np.zeros(size)
    for step in range(1, num_steps + 1):
        survival = 1 - step / num_steps
        forward = survival * np.eye(size) + (1 - survival) / size  # q(xt | x0)
        logits = np.log(data[:, None] * forward)  # [x0, xt], of p(x0 | xt)
        pairs = [(clean, canvas) for clean in range(size) for canvas in range(size)]
        targets, canvas = np.array(pairs).T
        result = ours(logits.T[canvas], targets, canvas, [step] * len(pairs), num_steps)
        np.add.at(bound, targets, result * forward[targets, canvas])
    np.testing.assert_allclose(bound, -np.log(data), rtol=2e-5)


def test_nothing_overflows():
    size = 1000
    logits = np.zeros((4, size))
    logits[:, 5] = 200  # sure, and wrong where the target is 3
    for step in (1, 2, 500, 1000):
        result = ours(logits, [3, 3, 5, 5], [5, 3, 5, 3], [step] * 4, 1000)
        assert np.isfinite(result).all()
        assert (result > -1e-5).all()
        assert result[:2].min() > result[2:].max() - 1e-5 or step == 1000


def test_bfloat16_logits_are_compared_in_float32():
    logits = ops.cast(ops.convert_to_tensor(np.eye(4, dtype="float32")), "bfloat16")
    ids, steps = ops.arange(4, dtype="int32"), ops.full((4,), 2.0)
    result = posterior_divergence(logits, ids, ids, steps, steps + 1)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    np.testing.assert_allclose(
        tiny.to_numpy(result), ours(np.eye(4), range(4), range(4), [2] * 4, 3)
    )
