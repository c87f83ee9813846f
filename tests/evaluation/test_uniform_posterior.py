import itertools

import numpy as np
import pytest
from keras import ops

from keras_textdiff.evaluation.uniform_posterior import posterior_divergence
from tests import tiny
from tests.life import compile_call


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


def ours(logits, targets, canvas, steps, num_steps, dtype="float32"):
    arguments = [
        ops.cast(np.array(logits, "float32"), dtype),
        np.array(targets, "int32"),
        np.array(canvas, "int32"),
        np.array(steps, "float32"),
        np.broadcast_to(np.array(num_steps, "float32"), len(targets)),
    ]
    arguments = [ops.convert_to_tensor(argument) for argument in arguments]
    run = compile_call if tiny.JIT else lambda function, inputs: function(*inputs)
    result = tiny.to_numpy(run(posterior_divergence, arguments))
    assert result.dtype == "float32"
    return result


@pytest.mark.parametrize("size", [2, 3, 40])
def test_equals_the_matrices(size):
    rng = np.random.default_rng(0)
    options = list(itertools.product([1, 2, 100], [0.1, 1, 10])) * 30
    num_steps, scales = np.array(options).T
    count = len(options)
    logits = (rng.normal(size=(count, size)) * scales[:, None]).astype("float32")
    targets = rng.integers(0, size, count)
    canvas = np.where(rng.random(count) < 0.5, targets, rng.integers(0, size, count))
    steps = rng.integers(1, num_steps + 1)
    exact = np.exp(logits.astype("float64"))
    exact /= exact.sum(axis=1, keepdims=True)
    expected = [
        divergence(exact[row], targets[row], canvas[row], steps[row], num_steps[row])
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
    indices = itertools.product(range(1, num_steps + 1), range(size), range(size))
    steps, targets, canvas = np.array(list(indices)).T
    survival = 1 - steps[:, None, None] / num_steps
    forward = survival * np.eye(size) + (1 - survival) / size  # q(xt | x0) at each step
    rows = np.arange(len(steps))
    logits = np.log(data * forward[rows, :, canvas])  # of p(x0 | xt)
    divergences = ours(logits, targets, canvas, steps, num_steps)
    bound = np.zeros(size)
    np.add.at(bound, targets, divergences * forward[rows, targets, canvas])
    np.testing.assert_allclose(bound, -np.log(data), rtol=2e-5)


def test_nothing_overflows():
    size = 1000
    logits = np.zeros((4, size))
    logits[:, 5] = 200  # sure, and wrong where the target is 3
    steps = np.repeat([1, 2, 500, 1000], 4)
    result = ours(np.tile(logits, (4, 1)), [3, 3, 5, 5] * 4, [5, 3, 5, 3] * 4, steps, 1000)
    assert np.isfinite(result).all()
    assert (result > -1e-5).all()
    result = result.reshape(4, 4)[:3]  # at the last step, xt says nothing of x0
    assert (result[:, :2].min(axis=1) > result[:, 2:].max(axis=1)).all()


def test_bfloat16_logits_are_compared_in_float32():
    arguments = (np.eye(4), range(4), range(4), [2] * 4, 3)  # ones and zeros are exact in both
    np.testing.assert_allclose(ours(*arguments, dtype="bfloat16"), ours(*arguments), rtol=1e-5)
