import keras
import numpy as np
import pytest
from keras import ops, tree

from keras_textdiff.utils import row_blocks
from keras_textdiff.utils.softmax_gradient import (
    add_product,
    cross_entropies,
    cross_entropies_and_gradient,
    scaled_sum,
)
from tests.tiny import to_numpy

C, V, D = 7, 11, 3


@pytest.fixture(params=["one block", "blocks"])
def blocks(request, monkeypatch):
    """Work on two rows of the vocabulary at a time, or on all."""
    if request.param == "blocks":
        if keras.config.backend() != "torch":
            pytest.skip("On torch, Python goes from block to block.")
        monkeypatch.setattr(row_blocks, "BLOCK_ELEMENTS", 2 * V)


def compiled(function):
    """Return a function as it is, and on TensorFlow in a graph without XLA and in one with it."""
    if keras.config.backend() != "tensorflow":
        return [function]
    import tensorflow as tf

    return [function, *(tf.function(function, jit_compile=jit) for jit in (False, True))]


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 4e-3)])
def test_gradient_is_that_of_the_cross_entropy(blocks, dtype, tolerance):
    logits = to_numpy(ops.cast(ops.cast(ops.convert_to_tensor(random(C, V)), dtype), "float32"))
    targets, weights = np.arange(C, dtype="int32"), random(C)
    totals = np.log(np.exp(logits).sum(axis=1))
    expected = np.exp(logits - totals[:, None]) - np.eye(V)[targets]
    tensor = ops.cast(ops.convert_to_tensor(logits), dtype)
    targets, weights = ops.convert_to_tensor(targets), ops.convert_to_tensor(weights)
    expected_losses = totals - logits[np.arange(C), to_numpy(targets)]
    expected = expected * to_numpy(weights)[:, None]
    for run in compiled(cross_entropies):
        np.testing.assert_allclose(
            to_numpy(run(tensor, targets)), expected_losses, rtol=1e-5, atol=1e-5
        )
    for run in compiled(cross_entropies_and_gradient):
        losses, result = run(tensor, targets, weights)
        np.testing.assert_allclose(to_numpy(losses), expected_losses, rtol=1e-5, atol=1e-5)
        assert keras.backend.standardize_dtype(result.dtype) == dtype
        result = to_numpy(ops.cast(result, "float32"))
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(keras.config.backend() == "torch", reason="torch raises an error.")
@pytest.mark.parametrize("target", [-1, V])
def test_a_target_outside_the_vocabulary_is_not_a_number(target):
    """Or an error behind the vocabulary on TensorFlow, where XLA does not compile the function."""
    targets = ops.convert_to_tensor(np.array([0, target, 1], "int32"))
    logits, weights = ops.convert_to_tensor(random(3, V)), ops.ones((3,))

    def check(function, *arguments):
        """Check each of the results."""
        *others, with_xla = compiled(function)
        for run in others if target == V else ():
            with pytest.raises(Exception, match=rf"{V} is not in \[0, {V}\)"):
                run(*arguments)
        for run in [with_xla] if target == V else [*others, with_xla]:
            for result in tree.flatten(run(*arguments)):
                are_numbers = np.isfinite(to_numpy(result).reshape(3, -1))
                assert are_numbers.all(axis=1).tolist() == [True, False, True]
                assert not are_numbers[1].any()

    check(cross_entropies_and_gradient, logits, targets, weights)
    check(cross_entropies, logits, targets)


@pytest.mark.parametrize("sizes", [(C, V, D), (64, 900, 256)], ids=["small", "large"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.3)])
def test_products_add_up(blocks, sizes, dtype, tolerance, monkeypatch):
    num_positions, num_rows, size = sizes
    if num_rows > V and row_blocks.BLOCK_ELEMENTS == 2 * V:
        monkeypatch.setattr(row_blocks, "BLOCK_ELEMENTS", 100 * size)  # oneDNN's products
    total, gradient, hidden = (
        random(num_rows, size), random(num_positions, num_rows), random(num_positions, size)
    )  # fmt: skip
    result = add_product(
        ops.convert_to_tensor(total.copy()),
        ops.cast(ops.convert_to_tensor(gradient), dtype),
        ops.cast(ops.convert_to_tensor(hidden), dtype),
    )
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    expected = total + gradient.T @ hidden
    np.testing.assert_allclose(to_numpy(result), expected, rtol=tolerance / 10, atol=tolerance)


@pytest.mark.parametrize("num_groups", [1, 2])
def test_scaled_sum(blocks, num_groups):
    totals, scales = random(num_groups, V, D), random(num_groups, 1, 1)
    for dtype, tolerance in [("float32", 1e-5), ("bfloat16", 1e-2)]:
        result = scaled_sum(
            ops.convert_to_tensor(totals), ops.convert_to_tensor(scales), ops.zeros((), dtype).dtype
        )
        assert keras.backend.standardize_dtype(result.dtype) == dtype
        result = to_numpy(ops.cast(result, "float32"))
        np.testing.assert_allclose(result, (totals * scales).sum(axis=0), tolerance, tolerance)
