import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils.fused_attention import BLOCK_ELEMENTS, HEAD_ELEMENTS, fused_attention
from tests.tiny import to_numpy

HEADS = 3
SHAPES = {  # rows, queries, keys: several rows in a block, one row's heads in several, few keys
    "short": (5, 9, 9),
    "long": (2, 500, 500),
    "few_keys": (2, 300, 2),
    "longest": (1, 2000, 2500),  # queries of a head in two blocks
}
assert BLOCK_ELEMENTS < 3 * 500 * 500 and HEAD_ELEMENTS < 2000 * 2500


def attend_in_numpy(query, key, value, mask, scale):
    logits = np.einsum("bqnh,bknh->bnqk", query, key) * scale
    logits = np.where(mask, logits, -1e9)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("bnqk,bknh->bqnh", weights, value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_numpy(shape, masked, dtype):
    rows, queries, keys = SHAPES[shape]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(rows, n, HEADS, 8)) for n in (queries, keys, keys)]
    mask = rng.random((rows, 1, queries, keys)) < 0.7
    mask[..., 0] = True
    tensors = [ops.cast(ops.convert_to_tensor(array, "float32"), dtype) for array in arrays]
    arrays = [to_numpy(ops.cast(tensor, "float32")).astype("float64") for tensor in tensors]
    mask = mask if masked else np.ones_like(mask)
    output = fused_attention(*tensors, ops.convert_to_tensor(mask) if masked else None, 0.3)
    if output is None:
        pytest.skip("This backend attends by products and a softmax on this machine.")
    expected = attend_in_numpy(*arrays, mask, 0.3)
    tolerance = {"float32": 1e-5, "bfloat16": 0.03}[dtype]
    np.testing.assert_allclose(to_numpy(ops.cast(output, "float32")), expected, atol=tolerance)
