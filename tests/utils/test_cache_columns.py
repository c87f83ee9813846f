import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils.cache_columns import write_columns
from tests.tiny import to_numpy


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("index", [0, 2, 5])
def test_columns_are_written_into_a_copy(index, as_tensor):
    rng = np.random.default_rng(0)
    cache, columns = rng.random((2, 7, 3, 4), "float32"), rng.random((2, 2, 3, 4), "float32")
    before = ops.convert_to_tensor(cache.copy())
    where = ops.convert_to_tensor(index, "int32") if as_tensor else index
    after = write_columns(before, where, ops.convert_to_tensor(columns))
    expected = cache.copy()
    expected[:, index : index + 2] = columns
    np.testing.assert_array_equal(to_numpy(after), expected)
    np.testing.assert_array_equal(to_numpy(before), cache)
    rounded = write_columns(ops.cast(before, "bfloat16"), where, ops.convert_to_tensor(columns))
    np.testing.assert_allclose(to_numpy(ops.cast(rounded, "float32")), expected, rtol=1e-2)
