import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.models import causal_lm
from keras_textdiff.samplers import SundaeSampler
from keras_textdiff.utils import capture as capture_module
from keras_textdiff.utils.capture import CALLS_BEFORE_CAPTURE, capture
from tests import tiny
from tests.tiny import to_numpy

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "torch", reason="jax and tensorflow compile and record nothing."
)


def make_model():
    model = keras.Sequential([keras.layers.Dense(3, bias_initializer="ones")])
    model.build((None, 2))
    return model


class Counted:
    """A function that counts how often its Python runs."""

    def __init__(self, function):
        self.function = function
        self.count = 0

    def __call__(self, *arguments):
        self.count += 1
        return self.function(*arguments)


def call(function, x):
    import torch

    with torch.no_grad():
        return to_numpy(function({"x": ops.convert_to_tensor(x)}))


def test_python_runs_no_more_but_for_new_shapes():
    model = make_model()
    counted = Counted(lambda inputs: model(inputs["x"]) * 2)
    captured = capture(model, counted)
    rng = np.random.default_rng(0)
    for _ in range(CALLS_BEFORE_CAPTURE + 5):
        x = rng.normal(size=(4, 2)).astype("float32")
        np.testing.assert_allclose(call(captured, x), to_numpy(model(x)) * 2, rtol=1e-6)
    assert counted.count == CALLS_BEFORE_CAPTURE + 1
    call(captured, np.ones((5, 2), "float32"))
    assert counted.count == CALLS_BEFORE_CAPTURE + 2


def test_it_sees_new_weights():
    model = make_model()
    captured = capture(model, lambda inputs: model(inputs["x"]), after=0)
    x = np.ones((1, 2), "float32")
    before = call(captured, x)
    model.layers[0].bias.assign_add(np.ones(3, "float32"))
    np.testing.assert_allclose(call(captured, x), before + 1, rtol=1e-6)
    # As when a model moves to another device: another tensor stands for the same variable.
    bias = model.layers[0].bias
    bias._value = type(bias._value)(bias._value.detach() + 1, requires_grad=True)
    np.testing.assert_allclose(call(captured, x), before + 2, rtol=1e-6)
    model.layers[0].enable_lora(1)  # other variables
    model.layers[0].lora_kernel_b.assign(np.ones((1, 3), "float32"))
    np.testing.assert_allclose(call(captured, x), to_numpy(model(x)), rtol=1e-6)


def test_what_depends_on_numbers_is_not_recorded():
    model = make_model()
    counted = Counted(lambda inputs: model(inputs["x"] if inputs["x"][0, 0] > 0 else -inputs["x"]))
    captured = capture(model, counted, after=0)
    for x in (np.ones((1, 2), "float32"), -np.ones((1, 2), "float32")):
        np.testing.assert_allclose(call(captured, x), to_numpy(model(np.abs(x))), rtol=1e-6)


def test_gradients_and_eager_models_are_left_alone():
    model = make_model()
    function = Counted(lambda inputs: model(inputs["x"]))
    captured = capture(model, function, after=0)
    for _ in range(3):
        captured({"x": ops.ones((1, 2))})  # with gradients
    assert function.count == 3
    model.compile(run_eagerly=True)
    assert capture(model, function) is function


MODELS = {
    "plain": lambda: tiny.diffusion_lm(),
    "gpt2": lambda: tiny.diffusion_lm(
        rope=None,
        num_learned_positions=64,
        normalization="layer",
        gated_feed_forward=False,
        activation="gelu_tanh",
        use_feed_forward_bias=True,
        use_qkv_bias=True,
        use_attention_output_bias=True,
    ),
    "bfloat16": lambda: tiny.diffusion_lm(dtype="bfloat16"),
    "prefix": lambda: tiny.diffusion_lm(attention="prefix"),
    "settled": lambda: tiny.diffusion_lm(64, attention="prefix"),
    "window": lambda: tiny.diffusion_lm(
        num_layers=2, sliding_window=4, sliding_window_layers=[1], attention_soft_cap=20.0
    ),
    "experts": lambda: tiny.diffusion_lm(num_layers=2, num_experts=4, expert_layers=[1]),
    "sinks": lambda: tiny.diffusion_lm(use_attention_sinks=True),
    "encoder": lambda: tiny.encoder_decoder_lm("diffusion"),
}


@pytest.fixture
def recordings(monkeypatch):
    """A list that gets each recorded function, and its recording."""
    recordings = []
    record = capture_module._record

    def observe(function, *arguments):
        recordings.append((function, record(function, *arguments)))
        return recordings[-1][1]

    monkeypatch.setattr(capture_module, "_record", observe)
    return recordings


@pytest.mark.parametrize("kind", [*MODELS, "int8"])
def test_a_sampler_replays_its_denoiser(kind, recordings):
    lm = MODELS.get(kind, MODELS["plain"])()
    if kind == "int8":
        lm.compile()
        lm.quantize("int8")
    sampler = SundaeSampler(CALLS_BEFORE_CAPTURE + 4, 1.0, 2, stop_when_unchanged=False)
    prompts, max_length = ["the cat", "in"], 14
    if kind == "settled":  # long enough to be read once
        prompts, max_length = ["the cat in the hat on the log"] * 2, 40
    cached = []
    call = lm.backbone.call_with_cache
    lm.backbone.call_with_cache = lambda *arguments: cached.append(1) or call(*arguments)
    texts = []
    for run_eagerly in (True, False):
        lm.compile(sampler=sampler, run_eagerly=run_eagerly)
        texts.append(lm.generate(prompts, max_length=max_length, seed=1))
    assert texts[0] == texts[1]
    assert bool(cached) == (kind == "settled")
    (function, recording), *others = recordings
    assert not others and recording is not function


CAUSAL_MODELS = {
    "plain": lambda: tiny.causal_lm(),
    "rotary": lambda: tiny.causal_lm(
        num_layers=2, position_encoding="rotary", num_key_value_heads=1, sliding_window=4,
        sliding_window_layers=[1],
    ),
    "bfloat16": lambda: tiny.causal_lm(dtype="bfloat16"),
    "encoder": lambda: tiny.encoder_decoder_lm("causal"),
}  # fmt: skip


@pytest.mark.parametrize("sampler", ["greedy", "beam"])
@pytest.mark.parametrize("kind", list(CAUSAL_MODELS))
def test_cached_generation_replays_its_step(kind, sampler, recordings, monkeypatch):
    monkeypatch.setattr(causal_lm, "CALLS_BEFORE_CAPTURE", 3)
    lm = CAUSAL_MODELS[kind]()
    texts = []
    for run_eagerly in (True, False):
        lm.compile(sampler=sampler, run_eagerly=run_eagerly)
        texts.append(lm.generate(["the cat", "in"], max_length=14, stop_token_ids=None))
    assert texts[0] == texts[1]
    (function, recording), *others = recordings
    assert not others and recording is not function
