import sys

import numpy as np
import pytest
from keras import ops

from keras_textdiff.samplers import ArgmaxUnrolledSampler, SundaeSampler
from keras_textdiff.utils import random
from tests.tiny import to_numpy

ROWS, LENGTH, VOCABULARY = 5, 12, 40
RNG = np.random.default_rng(0)
EMBEDDING = RNG.normal(0, 1, (VOCABULARY, 8)).astype("float32")
MIXING = RNG.normal(0, 1, (LENGTH, LENGTH)).astype("float32") / 2
OUTPUT = RNG.normal(0, 0.6, (8, VOCABULARY)).astype("float32")
# What positions prefer by themselves; it makes rows settle, each after another number of steps.
BIAS = np.random.default_rng(1).normal(0, 9, (LENGTH, VOCABULARY)).astype("float32")


def denoise(canvas):
    """A small model in NumPy: positions mix linearly."""
    return np.einsum("lk,rkd,dv->rlv", MIXING, EMBEDDING[canvas], OUTPUT) + BIAS


def denoise_tensor(canvas):
    hidden = ops.einsum(
        "lk,rkd->rld", MIXING, ops.take(ops.convert_to_tensor(EMBEDDING), canvas, 0)
    )
    return ops.matmul(hidden, ops.convert_to_tensor(OUTPUT)) + ops.convert_to_tensor(BIAS)


def make_inputs(sampler, keys=None):
    keys = [("row", n) for n in range(ROWS)] if keys is None else keys
    target_mask = np.ones((len(keys), LENGTH), bool)
    target_mask[:, :3] = False
    canvas = np.stack(
        [random.generator("canvas", 1, *key).integers(0, VOCABULARY, LENGTH) for key in keys]
    )
    noise = sampler.draw_noise(1, keys, LENGTH)
    return {"token_ids": canvas.astype("int32"), "target_mask": target_mask, **noise}


def run(sampler, inputs, denoiser=denoise_tensor, **options):
    inputs = {name: ops.convert_to_tensor(value) for name, value in inputs.items()}
    outputs = sampler.run(denoiser, inputs, **options)
    return {name: to_numpy(value) for name, value in outputs.items()}


def log_softmax(logits):
    logits = logits.astype("float64") - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def invert(probabilities, uniform):
    return int((probabilities.cumsum() <= uniform).sum())


def loop(sampler, inputs, update):
    """The denoising loop, row by row in plain Python."""
    canvas = inputs["token_ids"].copy()
    scores, steps = np.zeros(len(canvas)), np.zeros(len(canvas), int)
    for row in range(len(canvas)):
        mask = inputs["target_mask"][row]
        for step in range(sampler.num_denoising_steps):
            log_p = log_softmax(denoise(canvas[row : row + 1])[0])
            scores[row] = log_p[np.arange(LENGTH), canvas[row]][mask].mean()
            steps[row] = step + 1
            new = np.where(mask, update(step, row, canvas[row], log_p, mask), canvas[row])
            unchanged = (new == canvas[row]).all()
            canvas[row] = new
            if unchanged and sampler.stop_when_unchanged:
                break
    return canvas, scores, steps


def check(sampler, inputs, update):
    outputs = run(sampler, inputs)
    canvas, scores, steps = loop(sampler, inputs, update)
    np.testing.assert_array_equal(outputs["token_ids"], canvas)
    np.testing.assert_array_equal(outputs["num_steps"], steps)
    np.testing.assert_allclose(outputs["scores"], scores, rtol=1e-4, atol=1e-5)
    assert outputs["failed_step"] == -1
    assert len(set(steps)) > 1 or not sampler.stop_when_unchanged
    return outputs


@pytest.mark.parametrize("stop_when_unchanged", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_sundae_equals_a_python_loop(temperature, stop_when_unchanged):
    sampler = SundaeSampler(8, temperature, 1, stop_when_unchanged=stop_when_unchanged)
    inputs = make_inputs(sampler)

    def update(step, row, canvas, log_p, mask):
        if temperature == 0:
            return log_p.argmax(-1)
        tempered = np.exp(log_softmax(log_p / temperature))
        uniforms = inputs["tokens"][step, row]
        return np.array([invert(p, u) for p, u in zip(tempered, uniforms, strict=True)])

    outputs = check(sampler, inputs, update)
    if not stop_when_unchanged:
        assert (outputs["num_steps"] == 8).all()


def test_partial_updates_equal_a_python_loop():
    sampler = SundaeSampler(30, 0.0, 1, update_proportion=0.3)
    inputs = make_inputs(sampler)

    def update(step, row, canvas, log_p, mask):
        best = log_p.argmax(-1)
        differs = (best != canvas) & mask
        updates = inputs["updates"][step, row] < 0.3
        if not (differs & updates).any() and differs.any():
            updates[np.flatnonzero(differs)[0]] = True
        return np.where(updates, best, canvas)

    check(sampler, inputs, update)


def test_argmax_unrolled_equals_a_python_loop():
    sampler = ArgmaxUnrolledSampler(6, 0.5, 1, unrolled_proportion=0.4)
    inputs = make_inputs(sampler)

    def update(step, row, canvas, log_p, mask):
        if step == 0:
            tempered = np.exp(log_softmax(log_p / 0.5))
            return np.array(
                [invert(p, u) for p, u in zip(tempered, inputs["tokens"][0, row], strict=True)]
            )
        best = np.where(mask, log_p.argmax(-1), canvas)
        confidence = np.where(mask, log_p.max(-1), 1)
        least = np.argsort(confidence, kind="stable")[: int(np.ceil(0.4 * mask.sum()))]
        again = denoise(best[None])[0].argmax(-1)
        best[least] = again[least]
        return best

    check(sampler, inputs, update)


@pytest.mark.parametrize(
    "sampler",
    [
        SundaeSampler(5),
        SundaeSampler(5, update_proportion=0.5),
        ArgmaxUnrolledSampler(5),
    ],
)
def test_a_row_does_not_depend_on_its_neighbours(sampler):
    together = run(sampler, make_inputs(sampler))
    for row in range(ROWS):
        alone = run(sampler, make_inputs(sampler, [("row", row)]))
        np.testing.assert_array_equal(alone["token_ids"][0], together["token_ids"][row])
        assert alone["num_steps"][0] == together["num_steps"][row]


@pytest.mark.parametrize("sampler", [SundaeSampler(5), ArgmaxUnrolledSampler(5)])
def test_prefix_is_never_written(sampler):
    inputs = make_inputs(sampler)
    outputs = run(sampler, inputs, return_trajectory=True)
    for canvas in [outputs["token_ids"], *outputs["canvases"]]:
        np.testing.assert_array_equal(canvas[:, :3], inputs["token_ids"][:, :3])


def test_trajectory_holds_every_canvas():
    sampler = SundaeSampler(8, 0.0, 1)
    inputs = make_inputs(sampler)
    outputs = run(sampler, inputs, return_trajectory=True)
    canvases, confidences = outputs["canvases"], outputs["confidences"]
    assert canvases.shape == (9, ROWS, LENGTH)
    assert confidences.shape == (8, ROWS, LENGTH)
    np.testing.assert_array_equal(canvases[0], inputs["token_ids"])
    np.testing.assert_array_equal(canvases[-1], outputs["token_ids"])
    for step in range(8):
        ran = outputs["num_steps"] > step
        probabilities = np.exp(log_softmax(denoise(canvases[step])))
        expected = np.take_along_axis(probabilities, canvases[step + 1][..., None], -1)[..., 0]
        np.testing.assert_allclose(
            confidences[step][ran][:, 3:], expected[ran][:, 3:], rtol=1e-3, atol=1e-6
        )
        np.testing.assert_array_equal(canvases[step + 1][~ran], canvases[step][~ran])
        assert (confidences[step][ran][:, :3] == 1).all()
        assert (confidences[step][~ran] == 0).all()
    assert len(set(outputs["num_steps"])) > 1
    plain = run(sampler, inputs)
    np.testing.assert_array_equal(plain["token_ids"], outputs["token_ids"])


@pytest.mark.parametrize("bad_step", [0, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("return_scores", [True, False])
def test_the_step_of_bad_logits_is_reported(bad_step, bad, return_scores):
    calls = []

    def failing(canvas):
        calls.append(canvas)
        logits = denoise_tensor(canvas)
        return ops.full_like(logits, bad) if len(calls) == bad_step + 1 else logits

    sampler = SundaeSampler(5, stop_when_unchanged=False)
    inputs = make_inputs(sampler)

    # Run uncompiled step by step: a compiled loop traces its body once.
    module = sys.modules["keras_textdiff.samplers.sampler"]

    def python_loop(condition, body, loop_vars):
        while bool(to_numpy(condition(*loop_vars))):
            loop_vars = body(*loop_vars)
        return loop_vars

    original, module.while_loop = module.while_loop, python_loop
    try:
        outputs = run(sampler, inputs, denoiser=failing, return_scores=return_scores)
    finally:
        module.while_loop = original
    assert outputs["failed_step"] == bad_step
    assert len(calls) == bad_step + 1


@pytest.mark.parametrize("cls", [SundaeSampler, ArgmaxUnrolledSampler])
@pytest.mark.parametrize("return_trajectory", [False, True])
def test_texts_do_not_depend_on_scores(cls, return_trajectory):
    sampler = cls(6)
    inputs, options = make_inputs(sampler), {"return_trajectory": return_trajectory}
    expected = run(sampler, inputs, **options)
    outputs = run(sampler, inputs, return_scores=False, **options)
    assert set(outputs) == set(expected)
    assert np.all(expected.pop("scores") < 0) and np.all(outputs.pop("scores") == 0)
    for name, value in expected.items():
        np.testing.assert_array_equal(outputs[name], value)


def test_a_row_without_target_stays_as_it_is():
    sampler = SundaeSampler(4)
    inputs = make_inputs(sampler)
    inputs["target_mask"][2] = False
    outputs = run(sampler, inputs)
    np.testing.assert_array_equal(outputs["token_ids"][2], inputs["token_ids"][2])
    assert outputs["num_steps"][2] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_denoising_steps": 0}, "num_denoising_steps"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "finite"),
        ({"num_canvases": 0}, "num_canvases"),
        ({"update_proportion": 0.0}, "update_proportion"),
        ({"update_proportion": 1.5}, "update_proportion"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SundaeSampler(**options)


@pytest.mark.parametrize("proportion", [0.0, 2])
def test_bad_unrolled_proportion(proportion):
    with pytest.raises(ValueError, match="unrolled_proportion"):
        ArgmaxUnrolledSampler(unrolled_proportion=proportion)
