import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils import row_blocks
from keras_textdiff.utils.categorical import draw, log_total, most_likely
from keras_textdiff.utils.compilation import compile_tensors
from tests.tiny import to_numpy

V = 300


def run(function, **arrays):
    model = keras.Sequential()
    model.compile()
    tensors = {name: ops.convert_to_tensor(x) for name, x in arrays.items()}
    outputs = compile_tensors(model, function)(tensors)
    return {name: to_numpy(x) for name, x in outputs.items()}


@pytest.fixture
def sizes(monkeypatch):
    """Return the list of row counts that functions of rows were called with; blocks of 8 fit."""
    monkeypatch.setattr(row_blocks, "BLOCK_ELEMENTS", 8 * V)
    called = []
    original = row_blocks.by_row_blocks

    def recording(function, dtype, logits, *arrays):
        def counted(rows, *others):
            called.append(rows.shape[0])
            return function(rows, *others)

        return original(counted, dtype, logits, *arrays)

    monkeypatch.setattr("keras_textdiff.utils.categorical.by_row_blocks", recording)
    return called


@pytest.mark.parametrize(
    ("shape", "block"),
    [((4, 16), 8), ((6, 5), 6), ((1, 7), 7), ((1, 31), 31), ((0, 5), 0)],
    ids=["many", "a divisor", "few", "a prime number", "none"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_blocks_give_what_numpy_gives(sizes, shape, block, dtype):
    rng = np.random.default_rng(0)
    logits = rng.integers(-40, 41, (*shape, V)).astype("float32") / 8  # exact in all dtypes
    uniforms = rng.random(shape, "float32")

    def all_of_them(arrays):
        x = ops.cast(arrays["logits"], dtype)
        return {
            "log_total": log_total(x),
            "drawn": draw(x, arrays["uniforms"], 0.5),
            "most_likely": most_likely(x),
        }

    outputs = run(all_of_them, logits=logits, uniforms=uniforms)
    assert set(sizes) == {block}
    expected = np.log(np.exp(logits.astype("float64")).sum(-1))
    np.testing.assert_allclose(outputs["log_total"], expected, rtol=1e-5)
    np.testing.assert_array_equal(outputs["most_likely"], logits.argmax(-1))
    masses = np.exp(logits.astype("float64") / 0.5)
    cumulative = masses.cumsum(-1) / masses.sum(-1, keepdims=True)
    drawn = (cumulative <= uniforms[..., None]).sum(-1)
    clear = np.abs(cumulative - uniforms[..., None]).min(-1, initial=1) > 1e-6
    np.testing.assert_array_equal(outputs["drawn"][clear], drawn[clear])
