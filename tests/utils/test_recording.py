import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.backbones.layers.dense import Dense
from keras_textdiff.utils import recording
from keras_textdiff.utils.capture import capture
from keras_textdiff.utils.dense import _has_onednn, dense
from tests.tiny import to_numpy

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "torch", reason="jax and tensorflow compile and record nothing."
)
SIZE = 128  # its products are large enough for oneDNN


@pytest.fixture(autouse=True)
def onednn():
    import torch

    if not (_has_onednn(torch.float32) and _has_onednn(torch.bfloat16)):
        pytest.skip("This build of torch, on this processor, has no oneDNN products.")


def make_model(**changes):
    model = keras.Sequential([Dense(SIZE, activation="gelu_tanh", **changes), Dense(SIZE)])
    model.build((None, SIZE))
    return model


def rows(number=SIZE):
    return np.random.default_rng(0).normal(size=(number, SIZE)).astype("float32")


def call(function, *arrays):
    import torch

    with torch.no_grad():
        return function(*(ops.convert_to_tensor(array) for array in arrays))


def kept(captured):
    return list(captured.packed._weights.values())


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_packed_products_see_new_numbers(dtype):
    model = make_model(dtype=dtype)
    captured = capture(model, lambda x: model(x), after=0)
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    for _ in range(3):
        np.testing.assert_allclose(
            to_numpy(call(captured, rows())), to_numpy(call(model, rows())), atol=tolerance
        )
        for weight in model.trainable_variables:
            weight.assign_add(np.full(weight.shape, 0.1, "float32"))
    assert len(kept(captured)) == 2


def test_packed_products_see_what_fused_optimizers_of_torch_change():
    import torch

    model = make_model()
    captured = capture(model, lambda x: model(x), after=0)
    parameters = [weight.value for weight in model.trainable_variables]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=True)  # counts no changes
    before = to_numpy(call(captured, rows()))
    (model(ops.convert_to_tensor(rows())) ** 2).sum().backward()
    optimizer.step()
    expected = to_numpy(call(model, rows()))
    assert np.abs(expected - before).max() > 1e-2
    np.testing.assert_allclose(to_numpy(call(captured, rows())), expected, atol=1e-5)


def test_recordings_share_packed_weights():
    model = make_model()
    captured = capture(model, lambda x: model(x), after=0)
    for number in (SIZE, 2 * SIZE):
        np.testing.assert_allclose(
            to_numpy(call(captured, rows(number))),
            to_numpy(call(model, rows(number))),
            atol=1e-5,
        )
    assert len(captured.recordings) == 2 and len(kept(captured)) == 2


def test_what_is_too_large_is_not_kept(monkeypatch):
    monkeypatch.setattr(recording, "LARGEST_PACKED", 4 * SIZE * SIZE + 1)
    model = make_model()
    captured = capture(model, lambda x: model(x), after=0)
    np.testing.assert_allclose(
        to_numpy(call(captured, rows())), to_numpy(call(model, rows())), atol=1e-5
    )
    assert len(kept(captured)) == 1


def test_weights_whose_changes_are_not_counted_are_not_recorded():
    import torch

    with torch.inference_mode():
        model = make_model()
    captured = capture(model, lambda x: model(x), after=0)
    call(captured, rows())
    assert not captured.recordings


def test_a_result_in_use_is_not_written_over(monkeypatch):
    monkeypatch.setattr(recording, "SMALLEST_REUSED", 0)
    model = make_model()
    captured = capture(model, lambda x, y: ops.reshape(dense(x, y), (2, SIZE // 2, SIZE)), after=0)
    x, y = (ops.cast(rows() + shift, "bfloat16") for shift in (0, 1))
    first = call(captured, x, y)
    expected, part = to_numpy(first), first[0]
    second = call(captured, -x, y)
    assert second.data_ptr() != first.data_ptr()
    del first  # a part of it is still looked at
    third = call(captured, 2 * x, y)
    np.testing.assert_array_equal(to_numpy(part), expected[0])
    np.testing.assert_array_equal(to_numpy(second), -expected)
    np.testing.assert_array_equal(to_numpy(third), 2 * expected)
    place = third.data_ptr()
    del third
    assert call(captured, x, y).data_ptr() == place
