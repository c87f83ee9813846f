import numpy as np
import pytest

from keras_textdiff.data.packing import pack_rows

pytestmark = pytest.mark.backend_free


def test_rows_with_learned_padding():
    rows = pack_rows([[5, 6], []], [[7, 0], [8, 9, 1, 2, 3]], 5, 0, learn_padding=True)
    np.testing.assert_array_equal(rows["token_ids"], [[5, 6, 7, 0, 0], [8, 9, 1, 2, 3]])
    assert rows["padding_mask"].all()
    np.testing.assert_array_equal(rows["prompt_mask"].sum(axis=1), [2, 0])
    np.testing.assert_array_equal(rows["target_mask"], ~rows["prompt_mask"])


def test_rows_with_masked_padding():
    rows = pack_rows([[5, 6], [1] * 9], [[7, 0], [8]], 5, 0, learn_padding=False)
    np.testing.assert_array_equal(rows["padding_mask"].sum(axis=1), [4, 5])
    np.testing.assert_array_equal(rows["target_mask"].sum(axis=1), [2, 0])
    assert not (rows["target_mask"] & rows["prompt_mask"]).any()
