import keras
import numpy as np
import pytest

from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.utils.one_pass import in_one_pass
from tests import tiny
from tests.life import check_weights_file
from tests.tiny import to_numpy

VARIANTS = {
    "plain": {},
    "t5": {"rope": None, "num_position_buckets": 8, "attention_scale": 1.0},
    "gpt2": {
        "rope": None,
        "num_learned_positions": 16,
        "normalization": "layer",
        "use_qkv_bias": True,
        "use_attention_output_bias": True,
        "gated_feed_forward": False,
        "activation": "gelu_tanh",
        "use_feed_forward_bias": True,
    },
    "gemma3": {
        "normalization": "rms_unit_offset",
        "use_post_normalization": True,
        "query_key_normalization": True,
        "sliding_window": 3,
        "sliding_window_layers": [0],
        "sliding_window_rope": {"theta": 100.0},
        "scale_embeddings": True,
        "attention_soft_cap": 20.0,
        "logit_soft_cap": 10.0,
        "activation": "gelu_tanh",
    },
    "gpt_oss": {
        "use_attention_sinks": True,
        "num_experts": 3,
        "expert_layers": [1],
        "use_expert_bias": True,
        "activation": "clamped_swiglu",
        "layers_without_rope": [0],
        "tie_embeddings": False,
    },
}


def masked_inputs(backbone, length=10):
    inputs = tiny.inputs(length=length)
    return {name: inputs[name] for name in backbone.input}


@pytest.mark.parametrize("attention", ["bidirectional", "causal", "prefix", "block"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_life(variant, attention, tmp_path):
    config = dict(VARIANTS[variant], attention=attention)
    if attention == "block":
        config["block_length"] = 4
    backbone = tiny.backbone(**config)
    inputs = masked_inputs(backbone)
    output = to_numpy(backbone(inputs))
    assert output.shape == (2, 10, 32)
    assert np.isfinite(output).all()
    assert TransformerBackbone.from_config(backbone.get_config()).get_config() == (
        backbone.get_config()
    )
    check_weights_file(backbone, inputs, str(tmp_path / "model.weights.h5"))
    np.testing.assert_allclose(
        to_numpy(backbone.predict(inputs, verbose=0)), output, rtol=2e-4, atol=2e-4
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("attention", "step"), [("causal", 1), ("block", 5), ("prefix", 1)])
def test_cached_calls_equal_one_call(variant, attention, step):
    extra = {"block_length": step} if attention == "block" else {}
    backbone = tiny.backbone(attention=attention, **VARIANTS[variant], **extra)
    inputs = masked_inputs(backbone)
    inputs["padding_mask"][:] = True
    expected = to_numpy(backbone(inputs))
    cache = backbone.empty_cache(2, 10)
    outputs = []
    for start, stop in [(0, 5)] + [(at, at + step) for at in range(5, 10, step)]:
        part = {**inputs, "token_ids": inputs["token_ids"][:, start:stop]}
        hidden_states, cache = backbone.call_with_cache(part, cache, start)
        outputs.append(to_numpy(hidden_states))
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("attention", "seen"),
    [
        ("bidirectional", range(10)),
        ("causal", range(7, 10)),
        ("prefix", range(7, 10)),
        ("block", range(5, 10)),
    ],
)
def test_who_sees_a_change_at_position_7(attention, seen):
    extra = {"block_length": 5} if attention == "block" else {}
    backbone = tiny.backbone(attention=attention, **extra)
    inputs = masked_inputs(backbone)
    inputs["padding_mask"][:] = True
    before = to_numpy(backbone(inputs))
    inputs["token_ids"][:, 7] = (inputs["token_ids"][:, 7] + 1) % 33
    changed = np.abs(to_numpy(backbone(inputs)) - before).max(axis=(0, 2)) > 1e-6
    np.testing.assert_array_equal(np.flatnonzero(changed), list(seen))


def test_padding_is_not_attended_to():
    backbone = tiny.backbone()
    inputs = masked_inputs(backbone)
    before = to_numpy(backbone(inputs))
    inputs["token_ids"][1, 7:] = 0
    after = to_numpy(backbone(inputs))
    np.testing.assert_allclose(after[1, :7], before[1, :7], atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_no_weight(dropout):
    weights = []
    for gradient_checkpointing in (False, True):
        keras.utils.set_random_seed(1)
        backbone = tiny.backbone(
            dropout=dropout, gradient_checkpointing=gradient_checkpointing, **VARIANTS["gemma3"]
        )
        model = keras.Model(backbone.input, backbone.logits(backbone.output))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        inputs = masked_inputs(backbone)
        before = [to_numpy(weight) for weight in backbone.trainable_variables]
        for _ in range(2):
            model.train_on_batch(inputs, inputs["token_ids"])
        weights.append([to_numpy(weight) for weight in backbone.trainable_variables])
    for path, start, first, second in zip(
        [w.path for w in backbone.trainable_variables], before, *weights, strict=True
    ):
        assert np.abs(first - start).max() > 0, path
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-5, err_msg=path)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="Others compile differently.")
def test_a_recomputed_activation_is_one_pass_like_the_first(monkeypatch):
    counts = []
    for gradient_checkpointing in (False, True):
        calls = []

        def counted(function, *tensors, calls=calls):
            calls.append(function)
            return in_one_pass(function, *tensors)

        monkeypatch.setattr("keras_textdiff.utils.dense.in_one_pass", counted)
        backbone = tiny.backbone(gradient_checkpointing=gradient_checkpointing)
        model = keras.Model(backbone.input, backbone.logits(backbone.output))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
        inputs = masked_inputs(backbone)
        model.train_on_batch(inputs, inputs["token_ids"])
        counts.append(len(calls))
    assert counts == [2, 4]  # of two layers


def test_dropout_acts_in_training_only():
    backbone = tiny.backbone(dropout=0.5)
    inputs = masked_inputs(backbone)
    calm = [to_numpy(backbone(inputs, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*calm)
    wild = [to_numpy(backbone(inputs, training=True)) for _ in range(2)]
    assert np.abs(wild[0] - wild[1]).max() > 1e-3


def test_bfloat16_stays_near_float32():
    backbone = tiny.backbone(scale=0.1)
    half = TransformerBackbone.from_config({**backbone.get_config(), "dtype": "bfloat16"})
    half.set_weights(backbone.get_weights())
    inputs = masked_inputs(backbone)
    output = half(inputs)
    assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
    expected = to_numpy(backbone(inputs))
    error = np.abs(to_numpy(keras.ops.cast(output, "float32")) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()


def test_lora_reaches_query_and_value():
    backbone = tiny.backbone()
    backbone.enable_lora(2)
    names = [weight.path for weight in backbone.trainable_variables]
    assert len(names) == 2 * 2 * 2  # layers, query and value, two factors
    assert all("query" in name or "value" in name for name in names)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_layers": -1}, "`num_layers` must be at least 1"),
        ({"num_query_heads": 0}, "`num_query_heads` must be at least 1"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"head_dim": 7}, "even"),
        ({"hidden_dim": 32.0}, "`hidden_dim` must be an integer"),
        ({"attention": "both"}, "`attention` must be one of"),
        ({"attention": "block"}, "block_length"),
        ({"block_length": 4}, "block_length"),
        ({"sliding_window": 4}, "go together"),
        ({"sliding_window": 4, "sliding_window_layers": [2]}, "at most 1"),
        ({"num_experts": 2}, "go together"),
        ({"num_experts": 2, "expert_layers": [0], "num_experts_per_token": 3}, "exceeds"),
        ({"activation": "clamped_swiglu", "gated_feed_forward": False}, "`activation`"),
        ({"normalization": "batch"}, "`normalization` must be one of"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": float("nan")}, "finite"),
        ({"rope": {"theta": -1.0}}, "positive"),
        ({"rope": {"scaling": "yarn", "theta": 1e4}}, "takes exactly"),
        ({"rope": {"scaling": "odd", "theta": 1e4}}, "must be None or a dict"),
    ],
)
def test_bad_arguments_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        TransformerBackbone(**{**tiny.BACKBONE, **config})
