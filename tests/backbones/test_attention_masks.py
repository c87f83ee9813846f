import numpy as np
import pytest
from keras import ops

from keras_textdiff.backbones.attention_masks import ATTENTION_MODES, attention_mask
from tests.tiny import to_numpy

LENGTH, BLOCK = 9, 3
PADDING = np.ones((2, LENGTH), bool)
PADDING[1, 7:] = False
PROMPT = np.zeros((2, LENGTH), bool)
PROMPT[0, :4] = PROMPT[1, :2] = True


def may_attend(mode, row, query, key, window):
    """The rules, one pair of positions at a time."""
    if not PADDING[row, key] or (window is not None and abs(query - key) >= window):
        return False
    return {
        "bidirectional": True,
        "causal": key <= query,
        "prefix": key <= query or PROMPT[row, key],
        "block": key // BLOCK <= query // BLOCK,
    }[mode]


@pytest.mark.parametrize("mode", ATTENTION_MODES)
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("queries", [range(LENGTH), range(4, 6)])
def test_masks_follow_the_rules(mode, window, queries):
    mask = attention_mask(
        mode,
        ops.arange(queries.start, queries.stop),
        ops.arange(LENGTH),
        ops.convert_to_tensor(PADDING),
        prompt_mask=ops.convert_to_tensor(PROMPT),
        block_length=BLOCK,
        sliding_window=window,
    )
    expected = [
        [[[may_attend(mode, row, q, k, window) for k in range(LENGTH)] for q in queries]]
        for row in range(2)
    ]
    np.testing.assert_array_equal(np.broadcast_to(to_numpy(mask), np.shape(expected)), expected)
