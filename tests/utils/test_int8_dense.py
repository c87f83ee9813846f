import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils import int8_dense as module
from keras_textdiff.utils.int8_dense import int8_dense
from tests.tiny import to_numpy
from tests.utils.test_dense import EXPECTED

N, K, M = 6, 24, 40


# torch has three paths, the others one.
PATHS = {"torch": ["at once", "in blocks", "without VNNI"]}.get(keras.config.backend(), [""])


@pytest.fixture(params=PATHS)
def _path(request, monkeypatch):
    if request.param in ("at once", "in blocks") and not module._has_vnni():
        pytest.skip("this processor has no VNNI")
    if request.param == "in blocks":
        monkeypatch.setattr(module, "BLOCK_ROWS", 4)  # four rows, and two
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", 7 * 4)  # seven columns, and five at the end
    if request.param == "without VNNI":
        monkeypatch.setattr(module, "_has_vnni", lambda: False)


def make(seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(N, K)).astype("float32") * 10.0 ** rng.integers(-2, 3, (N, 1))
    kernel = rng.integers(-127, 128, (K, M)).astype("int8")
    return rows.astype("float32"), kernel, rng.uniform(50, 500, M).astype("float32")


def in_numpy(rows, kernel, scale):
    row_scale = 127 / np.abs(rows).max(-1, keepdims=True)
    product = np.round(rows * row_scale).astype("int64") @ kernel.astype("int64")
    return product / row_scale / scale


@pytest.mark.parametrize("activation", EXPECTED)
@pytest.mark.parametrize("bias_shape", [None, (M,), (N, M)])
@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.usefixtures("_path")
def test_it_equals_integers_in_numpy(activation, bias_shape, is_transposed):
    rows, kernel, scale = make()
    bias = None if bias_shape is None else np.random.default_rng(1).normal(size=bias_shape)
    tensor = ops.transpose(ops.convert_to_tensor(kernel.T)) if is_transposed else kernel
    expected = EXPECTED[activation](in_numpy(rows, kernel, scale) + (0 if bias is None else bias))
    bias = None if bias is None else bias.astype("float32")
    output = to_numpy(int8_dense(rows, tensor, scale, bias, activation))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.usefixtures("_path")
def test_half_precision_only_rounds_the_output(dtype):
    rows, kernel, scale = make()
    kernel[:] = 127  # sums beyond float16's largest number
    rows = ops.cast(np.abs(rows), dtype)
    output = int8_dense(rows, kernel, scale)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    expected = in_numpy(to_numpy(ops.cast(rows, "float32")), kernel, scale)
    # Elsewhere than with integers the product, too, is rounded to bfloat16.
    output = to_numpy(ops.cast(output, "float32"))
    np.testing.assert_allclose(
        output, expected, rtol=2 * {"bfloat16": 2**-8, "float16": 2**-11}[dtype]
    )


@pytest.mark.usefixtures("_path")
def test_a_row_does_not_depend_on_the_others():
    rows, kernel, scale = make()
    together = to_numpy(int8_dense(rows, kernel, scale))
    for row in range(N):
        alone = to_numpy(int8_dense(rows[row : row + 1], kernel, scale))
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.usefixtures("_path")
def test_what_is_not_finite_stays_visible(bad):
    rows, kernel, scale = make()
    rows[1, 3] = bad
    finite = np.isfinite(to_numpy(int8_dense(rows, kernel, scale)))
    assert finite[[0, 2, 3, 4, 5]].all()
    assert not finite[1].any()


def test_rows_of_zeros_give_zeros():
    _, kernel, scale = make()
    output = to_numpy(int8_dense(np.zeros((N, K), "float32"), kernel, scale))
    np.testing.assert_array_equal(output, np.zeros((N, M)))
