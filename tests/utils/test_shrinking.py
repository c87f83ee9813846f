import keras
import numpy as np
import pytest

from keras_textdiff.samplers import SundaeSampler, sampler
from keras_textdiff.utils import shrinking
from keras_textdiff.utils.compilation import CALLS_BEFORE_SPECIALIZING
from keras_textdiff.utils.shrinking import (
    run_shrinking,
    shrink_factor,
)
from tests import tiny
from tests.samplers.test_samplers import denoise_tensor, make_inputs, run

KEYS = [("row", n) for n in range(16)]


def make_sampler(**changes):
    options = {"num_denoising_steps": 40, "temperature": 0.2, "num_canvases": 1, **changes}
    return SundaeSampler(**options)


def call(rule, factor, inputs, denoiser=denoise_tensor):
    """Return the outputs, and the rows of each batch that ran."""
    sizes = []

    def function(inputs):
        sizes.append(len(inputs["token_ids"]))
        return run(rule, inputs, denoiser)

    return run_shrinking(function, inputs, rule.num_denoising_steps, factor), sizes


@pytest.mark.parametrize("update_proportion", [1.0, 0.5])
@pytest.mark.parametrize("factor", [2, 4])
def test_smaller_batches_write_the_same(factor, update_proportion):
    rule = make_sampler(update_proportion=update_proportion)
    inputs = make_inputs(rule, KEYS)
    inputs["target_mask"][3] = False  # a row that never starts
    expected, sizes = call(rule, 0, inputs)
    assert sizes == [16]
    outputs, sizes = call(rule, factor, inputs)
    assert len(set(expected["num_steps"])) > 3  # rows stop one after another
    assert len(sizes) > 1 and sizes == [16 // factor**n for n in range(len(sizes))]
    assert set(outputs) == set(expected) - {"active", "step"}
    for name in ("token_ids", "num_steps", "failed_step"):
        np.testing.assert_array_equal(outputs[name], expected[name])
    np.testing.assert_allclose(outputs["scores"], expected["scores"], rtol=1e-5)


def test_a_loop_that_fails_in_a_smaller_batch_says_when():
    rule = make_sampler()

    def denoiser(canvas):
        logits = denoise_tensor(canvas)
        return logits if len(canvas) == 16 else logits * float("nan")

    outputs, sizes = call(rule, 4, make_inputs(rule, KEYS), denoiser)
    assert sizes == [16, 4]
    assert outputs["failed_step"] == outputs["num_steps"].max() - 1 > 0


def test_steps_end_in_a_smaller_batch():
    rule = make_sampler(num_denoising_steps=10)
    inputs = make_inputs(rule, KEYS)
    outputs, sizes = call(rule, 2, inputs)
    expected, _ = call(rule, 0, inputs)
    assert sizes == [16, 8]
    np.testing.assert_array_equal(outputs["num_steps"], expected["num_steps"])
    np.testing.assert_array_equal(outputs["token_ids"], expected["token_ids"])
    assert expected["num_steps"].max() == 10


def test_factor():
    compiles = keras.config.backend() != "torch"
    assert shrink_factor(0, True) == (0 if compiles else 2)
    assert shrink_factor(CALLS_BEFORE_SPECIALIZING, True) == (4 if compiles else 2)
    assert shrink_factor(CALLS_BEFORE_SPECIALIZING, False) == 0


# With these pieces the gap of one token settles on all canvases; a long one never does.
@pytest.mark.parametrize(
    "kind, pieces",
    [
        ("decoder", ["the cat", "on the mat"]),
        ("encoder", ["a", "cat on the mat in the house"]),
    ],
)
def test_a_model_writes_the_same(kind, pieces, monkeypatch):
    if kind == "decoder":
        lm = tiny.diffusion_lm(num_layers=2)
    else:
        lm = tiny.encoder_decoder_lm("diffusion")
    lm.compile(sampler=SundaeSampler(8, 0.0, num_canvases=4))
    sizes, texts = [], []
    refine = shrinking.run_shrinking

    def observe(function, *arguments):
        def observed(inputs):
            sizes.append(len(inputs["token_ids"]))
            return function(inputs)

        return refine(observed, *arguments)

    monkeypatch.setattr(sampler, "run_shrinking", observe)
    for factor in (0, 2):
        monkeypatch.setattr(sampler, "shrink_factor", lambda *_, factor=factor: factor)
        texts.append(lm.infill([pieces, ["in", "house"]], lengths=[[1], [7]], seed=1))
    assert texts[0] == texts[1]
    assert sizes == [8, 8, 4]


def test_calls_of_one_sampler_are_counted(monkeypatch):
    lm = tiny.diffusion_lm()
    counts = []
    monkeypatch.setattr(
        sampler, "shrink_factor", lambda num_calls, stops: counts.append((num_calls, stops)) or 0
    )
    for stops in (True, False):
        lm.compile(sampler=SundaeSampler(2, num_canvases=1, stop_when_unchanged=stops))
        for _ in range(2):
            lm.generate(["the cat", "in"], max_length=14, seed=1, batch_size=1)
    assert counts == [(n, stops) for stops in (True, False) for n in range(4)]
