import keras
import numpy as np
import pytest

from keras_textdiff.backbones import EncoderDecoderBackbone
from tests import tiny
from tests.life import check_weights_file
from tests.tiny import to_numpy

VARIANTS = {
    "t5": {"attention_scale": 1.0, "num_key_value_heads": 4, "num_position_buckets": 8},
    "other": {
        "num_position_buckets": None,
        "rope": {"theta": 10000.0},
        "normalization": "layer",
        "gated_feed_forward": False,
        "activation": "relu",
        "tie_embeddings": True,
        "num_decoder_layers": 3,
    },
}


def masked_inputs(backbone, length=10):
    inputs = tiny.encoder_inputs(length=length)
    return {name: inputs[name] for name in backbone.input}


@pytest.mark.parametrize(("variant", "attention"), [("t5", "bidirectional"), ("other", "causal")])
def test_life(variant, attention, tmp_path):
    backbone = tiny.encoder_decoder(**VARIANTS[variant], attention=attention)
    inputs = masked_inputs(backbone)
    output = to_numpy(backbone(inputs))
    assert output.shape == (2, 10, 32)
    assert np.isfinite(output).all()
    config = backbone.get_config()
    assert EncoderDecoderBackbone.from_config(config).get_config() == config
    assert backbone.count_params() == backbone.parameter_count_from_config(config)
    check_weights_file(backbone, inputs, str(tmp_path / "model.weights.h5"))
    np.testing.assert_allclose(
        to_numpy(backbone.predict(inputs, verbose=0)), output, rtol=2e-4, atol=2e-4
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_encoding_serves_any_canvas(variant):
    backbone = tiny.encoder_decoder(**VARIANTS[variant])
    inputs = masked_inputs(backbone)
    context = backbone.encode(inputs)
    for seed in range(2):
        inputs["token_ids"] = tiny.inputs(seed=seed)["token_ids"]
        expected = to_numpy(backbone(inputs))
        np.testing.assert_allclose(
            to_numpy(backbone.decode(inputs, context)), expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_calls_equal_one_call(variant):
    backbone = tiny.encoder_decoder(**VARIANTS[variant], attention="causal")
    inputs = masked_inputs(backbone)
    inputs["padding_mask"][:] = True
    expected = to_numpy(backbone(inputs))
    cache = backbone.make_cache(inputs)
    outputs = []
    for start, stop in [(0, 5)] + [(at, at + 1) for at in range(5, 10)]:
        part = {**inputs, "token_ids": inputs["token_ids"][:, start:stop]}
        hidden_states, cache = backbone.call_with_cache(part, cache, start)
        outputs.append(to_numpy(hidden_states))
    np.testing.assert_allclose(np.concatenate(outputs, 1), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("attention", "key", "position", "seen"),
    [
        ("bidirectional", "token_ids", 6, range(10)),
        ("causal", "token_ids", 6, range(6, 10)),
        ("causal", "encoder_token_ids", 3, range(10)),
        ("causal", "encoder_token_ids", 6, ()),  # padding of the first row
    ],
)
def test_who_sees_a_change(attention, key, position, seen):
    backbone = tiny.encoder_decoder(attention=attention)
    inputs = masked_inputs(backbone)
    inputs["padding_mask"][:] = True
    before = to_numpy(backbone(inputs))
    inputs[key][0, position] = (inputs[key][0, position] + 1) % 33
    changed = np.abs(to_numpy(backbone(inputs)) - before).max(axis=-1) > 1e-6
    np.testing.assert_array_equal(np.flatnonzero(changed[0]), list(seen))
    assert not changed[1].any()


def test_the_encoder_reads_both_ways_and_not_its_padding():
    backbone = tiny.encoder_decoder()
    inputs = masked_inputs(backbone)
    for position, expected in ((4, True), (0, True), (6, False)):
        before = [to_numpy(x) for x in backbone.encode(inputs)[1][0]]
        inputs["encoder_token_ids"][0, position] ^= 1
        after = [to_numpy(x) for x in backbone.encode(inputs)[1][0]]
        for old, new in zip(before, after, strict=True):
            moved = np.abs(new - old)[0, :5].max(axis=(1, 2)) > 1e-6
            assert moved.all() if expected else not moved.any()


def test_gradient_checkpointing_changes_no_weight():
    weights = []
    for gradient_checkpointing in (False, True):
        keras.utils.set_random_seed(1)
        backbone = tiny.encoder_decoder(
            scale=0.2,
            num_encoder_layers=1,
            num_decoder_layers=1,
            num_position_buckets=4,
            dropout=0.3,
            gradient_checkpointing=gradient_checkpointing,
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


def test_dropout_acts_in_training_only():
    backbone = tiny.encoder_decoder(dropout=0.5)
    inputs = masked_inputs(backbone)
    for run in (
        lambda training: backbone(inputs, training=training),
        lambda training: backbone.encode(inputs, training=training)[1][0][0],
        lambda training: backbone.decode(inputs, backbone.encode(inputs), training=training),
    ):
        np.testing.assert_array_equal(*(to_numpy(run(False)) for _ in range(2)))
        wild = [to_numpy(run(True)) for _ in range(2)]
        assert np.abs(wild[0] - wild[1]).max() > 1e-3


def test_lora_reaches_query_and_value():
    backbone = tiny.encoder_decoder()
    backbone.enable_lora(2)
    names = [weight.path for weight in backbone.trainable_variables]
    assert len(names) == 6 * 2 * 2  # attention layers, query and value, two factors
    assert all("query" in name or "value" in name for name in names)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_encoder_layers": 0}, "`num_encoder_layers` must be at least 1"),
        ({"num_decoder_layers": -1}, "`num_decoder_layers` must be at least 1"),
        ({"num_key_value_heads": 3}, "must divide"),
        ({"attention": "prefix"}, r"`attention` must be one of \['bidirectional', 'causal'\]"),
        ({"num_position_buckets": None}, "set one of them"),
        ({"rope": {"theta": 1e4}}, "set one of them"),
        ({"num_position_buckets": 6}, "multiple of 4"),
        ({"activation": "clamped_swiglu", "gated_feed_forward": False}, "`activation`"),
        ({"normalization": "batch"}, "`normalization` must be one of"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_arguments_are_named(config, message):
    with pytest.raises(ValueError, match=message):
        EncoderDecoderBackbone(**{**tiny.ENCODER_DECODER, **config})


def test_missing_inputs_are_named():
    backbone = tiny.encoder_decoder()
    inputs = masked_inputs(backbone)
    del inputs["encoder_token_ids"]
    with pytest.raises(ValueError, match=r"Missing: \['encoder_token_ids'\]"):
        backbone.encode(inputs)
