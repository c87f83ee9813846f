import gc

import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.models import DiffusionLM
from keras_textdiff.utils.capture import capture
from keras_textdiff.utils.cuda_graph import CudaGraph
from tests import tiny
from tests.tiny import to_numpy


def has_gpu():
    if keras.config.backend() != "torch":
        return False
    import torch

    return torch.cuda.is_available()


pytestmark = pytest.mark.skipif(not has_gpu(), reason="Graphs are torch's on a GPU.")


def make_denoiser():
    lm = tiny.diffusion_lm()
    captured = capture(lm, lambda inputs: lm.backbone.logits(lm.hidden_states(inputs)), after=0)
    return lm, captured


def make_inputs(seed, rows=2):
    ids = np.random.default_rng(seed).integers(0, 20, (rows, 8)).astype("int32")
    return {"token_ids": ops.convert_to_tensor(ids), "padding_mask": ops.ones((rows, 8), "bool")}


def plain(lm, inputs):
    return to_numpy(lm.backbone.logits(lm.hidden_states(inputs)))


def graph_of(captured):
    (recording,) = captured.recordings.values()
    assert isinstance(recording, CudaGraph)
    return recording


def test_a_graph_computes_the_same_on_other_inputs():
    import torch

    lm, captured = make_denoiser()
    with torch.no_grad():
        outputs = [captured(make_inputs(seed)) for seed in range(3)]  # kept side by side
        graph_of(captured)
        for seed, output in enumerate(outputs):
            expected = plain(lm, make_inputs(seed))
            np.testing.assert_allclose(to_numpy(output), expected, atol=1e-5)


def test_memory_that_a_graph_reads_is_not_given_to_others():
    import torch

    model = keras.Sequential([keras.layers.Dense(3)])
    model.build((None, 2))
    # A constant that nobody but the recording holds.
    captured = capture(model, lambda x: model(x) + torch.ones(3, device=x.device).cumsum(0), 0)
    x = ops.ones((1, 2))
    with torch.no_grad():
        expected = to_numpy(captured(x))
        graph_of(captured)
        gc.collect()
        others = [torch.full((128,), float("nan"), device=x.device) for _ in range(1000)]
        np.testing.assert_array_equal(to_numpy(captured(x)), expected)
        del others


def test_a_graph_sees_new_numbers_and_new_memory():
    import torch

    lm, captured = make_denoiser()
    with torch.no_grad():
        before = to_numpy(captured(make_inputs(0)))
        weight = lm.backbone.trainable_variables[0]
        weight.assign(ops.convert_to_numpy(weight) * 2)
        after = to_numpy(captured(make_inputs(0)))
        assert np.abs(after - before).max() > 1e-3
        np.testing.assert_allclose(after, plain(lm, make_inputs(0)), atol=1e-5)
        weight._value.data = weight._value.data.clone() / 2
        np.testing.assert_allclose(to_numpy(captured(make_inputs(0))), before, atol=1e-5)


def test_what_waits_for_numbers_is_replayed_without_a_graph():
    import torch

    model = keras.Sequential([keras.layers.Dense(3)])
    model.build((None, 2))
    captured = capture(model, lambda x: model(x) + torch.tensor([1.0, 2.0, 3.0]).to(x.device), 0)
    x = ops.ones((1, 2))
    with torch.no_grad():
        for _ in range(2):
            expected = to_numpy(model(x)) + np.array([1, 2, 3])
            np.testing.assert_allclose(to_numpy(captured(x)), expected, rtol=1e-5)


def test_texts_are_those_of_plain_calls():
    lm, plain_lm = (DiffusionLM(tiny.backbone()) for _ in range(2))
    plain_lm.compile(run_eagerly=True)
    prompt = {
        "token_ids": np.ones((2, 16), "int32"),
        "padding_mask": np.arange(16)[None].repeat(2, 0) < 4,
    }
    for seed in range(20):  # recorded after some calls
        texts = [m.generate(prompt, stop_token_ids=None, seed=seed) for m in (lm, plain_lm)]
        np.testing.assert_array_equal(texts[0]["token_ids"], texts[1]["token_ids"])
