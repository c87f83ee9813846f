import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils import row_blocks
from keras_textdiff.utils.categorical import (
    draw,
    has_distribution,
    log_probability,
    log_total,
    most_likely,
)
from keras_textdiff.utils.compilation import compile_tensors
from tests.tiny import to_numpy

V = 300


def run(function, jit_compile="auto", **arrays):
    model = keras.Sequential()
    model.compile(jit_compile=jit_compile)
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
            "good": has_distribution(x),
            "untouched": ops.cast(x, "float32"),
        }

    outputs = run(all_of_them, logits=logits, uniforms=uniforms)
    assert set(sizes) == {block}
    np.testing.assert_array_equal(outputs["untouched"], logits)
    expected = np.log(np.exp(logits.astype("float64")).sum(-1))
    np.testing.assert_allclose(outputs["log_total"], expected, rtol=1e-5)
    np.testing.assert_array_equal(outputs["most_likely"], logits.argmax(-1))
    assert np.all(outputs["good"])
    masses = np.exp(logits.astype("float64") / 0.5)
    cumulative = masses.cumsum(-1) / masses.sum(-1, keepdims=True)
    drawn = (cumulative <= uniforms[..., None]).sum(-1)
    clear = np.abs(cumulative - uniforms[..., None]).min(-1, initial=1) > 1e-6
    np.testing.assert_array_equal(outputs["drawn"][clear], drawn[clear])


@pytest.mark.parametrize("vocabulary_size", [7, 70_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_bad_logit_is_seen(vocabulary_size, dtype):
    # With XLA, whose largest of numbers and NaN is a number.
    jit_compile = True if keras.config.backend() == "tensorflow" else "auto"
    logits = np.random.default_rng(0).normal(0, 1, (64, vocabulary_size)).astype("float32")
    bad = np.zeros(64, bool)
    for row, value in [(3, np.nan), (31, np.inf), (40, np.nan)]:
        logits[row, row * 7 % vocabulary_size] = value
        bad[row] = True
    logits[50, 2] = -np.inf  # a token that is never drawn, which is fine

    def both(arrays):
        x = ops.cast(arrays["logits"], dtype)
        return {"one": has_distribution(x), "other": ops.isfinite(log_total(x))}

    for value in run(both, jit_compile, logits=logits).values():
        np.testing.assert_array_equal(value, ~bad)


@pytest.mark.parametrize("num_rows", [4, 64], ids=["at once", "in blocks"])
def test_probabilities_sum_to_1_where_a_product_is_rounded(sizes, num_rows):
    # XLA gives some readers the product before it was rounded to bfloat16, which moves a logit of
    # 80 by up to 0.25; all readers have to see the same.
    rng = np.random.default_rng(0)
    arrays = {"hidden": rng.normal(0, 4, (num_rows, 64)), "kernel": rng.normal(0, 3, (64, V))}
    arrays = {name: value.astype("float32") for name, value in arrays.items()}
    likely = np.argsort(-arrays["hidden"] @ arrays["kernel"])[:, :8].astype("int32")  # have all

    def probabilities(arrays):
        hidden, kernel = (ops.cast(arrays[name], "bfloat16") for name in ("hidden", "kernel"))
        logits = ops.matmul(hidden, kernel)
        totals = log_total(logits)
        each = [log_probability(logits, totals, arrays["likely"][:, n]) for n in range(8)]
        return {"total": ops.sum(ops.exp(ops.stack(each)), axis=0)}

    jit_compile = keras.config.backend() != "torch"
    total = run(probabilities, jit_compile, likely=likely, **arrays)["total"]
    assert set(sizes) == {min(num_rows, 8)}
    np.testing.assert_allclose(total, 1, atol=1e-3)
