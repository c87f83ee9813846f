import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.backbones.layers.cross_attention import CrossAttention
from keras_textdiff.backbones.layers.feature_normalization import FeatureNormalization
from keras_textdiff.backbones.layers.feed_forward import FeedForward
from keras_textdiff.backbones.layers.mixture_of_experts import MixtureOfExperts
from keras_textdiff.backbones.layers.positions import AttentionMask, Positions
from keras_textdiff.backbones.layers.rotary_embedding import RotaryEmbedding, inverse_frequencies
from keras_textdiff.backbones.layers.self_attention import SelfAttention
from keras_textdiff.backbones.layers.transformer_block import TransformerBlock
from tests.life import check_layer
from tests.tiny import to_numpy

X = np.random.default_rng(0).normal(size=(2, 6, 16)).astype("float32")
MASK = np.tri(6, dtype=bool)[None, None].repeat(2, axis=0)
BIAS = np.random.default_rng(1).normal(size=(1, 4, 6, 6)).astype("float32")


@pytest.mark.parametrize("kind", ["rms", "rms_unit_offset", "layer"])
@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_normalization_is_computed_in_float32(kind, policy):
    import ml_dtypes

    # Around 100, in steps that bfloat16 knows: a mean or a square in bfloat16 would be far off.
    x = (100 + np.round(4 * X) / 2).astype(ml_dtypes.bfloat16).astype("float32")
    layer = FeatureNormalization(kind, 1e-5, dtype=policy)
    layer.build(x.shape)
    layer.scale.assign(1.5 + np.arange(16) / 16)
    expected = x - x.mean(-1, keepdims=True) if kind == "layer" else x
    expected = expected / np.sqrt((expected**2).mean(-1, keepdims=True) + 1e-5)
    expected = expected * (1.5 + np.arange(16) / 16 + (kind == "rms_unit_offset"))
    outputs = layer(ops.cast(x, "bfloat16"))
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    np.testing.assert_allclose(to_numpy(outputs).astype("float32"), expected, rtol=2**-8)


@pytest.mark.parametrize(
    "layer",
    [
        FeatureNormalization("rms"),
        FeatureNormalization("rms_unit_offset", 1e-5),
        FeatureNormalization("layer"),
        FeedForward(24),
        FeedForward(24, activation="gelu_tanh", gated=False, use_bias=True),
        FeedForward(24, activation="clamped_swiglu"),
        FeedForward(24, activation="gelu"),
        MixtureOfExperts(4, 2, 24),
        MixtureOfExperts(4, 1, 24, normalize_weights=False, use_bias=True),
    ],
    ids=lambda layer: f"{type(layer).__name__}-{layer.get_config()['name']}",
)
def test_life_of_a_layer_of_one_input(layer):
    check_layer(layer, X)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"soft_cap": 5.0, "use_sinks": True, "use_qkv_bias": True, "use_output_bias": True},
        {"query_key_normalization": "rms", "scale": 0.3},
    ],
    ids=["plain", "capped", "normalized"],
)
def test_life_of_attention(options):
    check_layer(SelfAttention(4, 2, 8, **options), X, MASK)


def test_life_of_a_block():
    block = TransformerBlock(SelfAttention(4, 2, 8), FeedForward(24), use_post_normalization=True)
    check_layer(block, X, MASK)


def test_life_of_a_block_that_attends_to_an_encoder():
    block = TransformerBlock(
        SelfAttention(4, 2, 8),
        FeedForward(24),
        cross_attention=CrossAttention(4, 2, 8),
        use_post_normalization=True,
    )
    encoded, no_rope = X[:, :5] + 1, (None, None)
    check_layer(block, X, MASK, *no_rope, BIAS, encoded, MASK[..., :5])


@pytest.mark.parametrize("options", [{}, {"use_qkv_bias": True, "use_output_bias": True}])
def test_life_of_cross_attention(options):
    check_layer(CrossAttention(4, 2, 8, scale=0.3, **options), X, X[:, :5] + 1, MASK[..., :5])


def test_cross_attention_is_self_attention_to_another_sequence():
    ours, twin = CrossAttention(4, 2, 8), SelfAttention(4, 2, 8)
    expected = to_numpy(twin(X, MASK))
    ours(X, X, MASK)
    ours.set_weights(twin.get_weights())
    np.testing.assert_allclose(to_numpy(ours(X, X, MASK)), expected, rtol=1e-4, atol=1e-5)
    projected = ours.project(X)
    np.testing.assert_allclose(to_numpy(ours(X, projected, MASK)), expected, rtol=1e-4, atol=1e-5)


def test_a_position_bias_is_added_to_the_logits():
    """A bias that rules out what a mask rules out gives what the mask gives."""
    layer = SelfAttention(4, 2, 8)
    expected = to_numpy(layer(X, MASK))
    bias = np.where(MASK[:1], 0.0, -1e9).repeat(4, axis=1).astype("float32")
    output = layer(X, np.ones_like(MASK), position_bias=bias)
    np.testing.assert_allclose(to_numpy(output), expected, rtol=1e-4, atol=1e-5)


def test_explicit_attention_equals_the_fused_one():
    """A soft cap too large to matter takes the other path and must change nothing."""
    fused, explicit = SelfAttention(4, 2, 8), SelfAttention(4, 2, 8, soft_cap=1e6)
    fused(X, MASK)
    explicit(X, MASK)
    explicit.set_weights(fused.get_weights())
    np.testing.assert_allclose(
        to_numpy(fused(X, MASK)), to_numpy(explicit(X, MASK)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("use_sinks", [False, True])
def test_a_row_that_may_attend_to_nothing_stays_finite(use_sinks):
    layer = SelfAttention(4, 2, 8, use_sinks=use_sinks)
    assert np.isfinite(to_numpy(layer(X, np.zeros_like(MASK)))).all()


def test_mixture_of_experts_equals_a_loop_over_tokens():
    layer = MixtureOfExperts(4, 2, 24)
    output = to_numpy(layer(X)).reshape(-1, 16)
    router, gate_up, down = (
        to_numpy(weight) for weight in (layer.router.kernel, layer.gate_up, layer.down)
    )
    for x, y in zip(X.reshape(-1, 16), output, strict=True):
        probabilities = np.exp(x @ router) / np.exp(x @ router).sum()
        chosen = np.argsort(-probabilities)[:2]
        expected = 0
        for expert in chosen:
            gate, up = np.split(x @ gate_up[expert], 2)
            hidden = gate / (1 + np.exp(-gate)) * up
            expected += (
                probabilities[expert] / probabilities[chosen].sum() * (hidden @ down[expert])
            )
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_rotation_depends_on_the_distance_only():
    cosine, sine = RotaryEmbedding(8, {"theta": 100.0})(np.arange(12))
    angles = np.arctan2(to_numpy(sine), to_numpy(cosine))[0, :, 0]
    steps = np.angle(np.exp(1j * np.diff(angles, axis=0)))
    np.testing.assert_allclose(steps, np.broadcast_to(steps[:1], steps.shape), atol=1e-4)
    np.testing.assert_allclose(steps[0, :4], 100.0 ** (-np.arange(4) / 4), atol=1e-5)


def test_frequency_scalings_at_their_ends():
    plain = inverse_frequencies(8, {"theta": 1e4})[0]
    linear = inverse_frequencies(8, {"theta": 1e4, "scaling": "linear", "factor": 4.0})[0]
    np.testing.assert_allclose(linear, plain / 4, rtol=1e-6)
    llama3 = inverse_frequencies(
        64,
        {
            "theta": 5e5,
            "scaling": "llama3",
            "factor": 8.0,
            "low_frequency_factor": 1.0,
            "high_frequency_factor": 4.0,
            "original_length": 8192,
        },
    )[0]
    plain = inverse_frequencies(64, {"theta": 5e5})[0]
    np.testing.assert_allclose(llama3[0], plain[0], rtol=1e-6)  # fast: as it was
    np.testing.assert_allclose(llama3[-1], plain[-1] / 8, rtol=1e-6)  # slow: stretched
    yarn = {"theta": 1.5e5, "scaling": "yarn", "factor": 32.0, "original_length": 4096}
    mixed, _, scale = inverse_frequencies(64, yarn)
    plain = inverse_frequencies(64, {"theta": 1.5e5})[0]
    np.testing.assert_allclose([mixed[0], mixed[-1]], [plain[0], plain[-1] / 32], rtol=1e-6)
    assert scale == pytest.approx(0.1 * math.log(32) + 1)


def test_positions_and_masks_survive_their_config():
    np.testing.assert_array_equal(to_numpy(Positions()(X[..., 0], start_index=2)), range(2, 8))
    layer = AttentionMask("block", block_length=2, sliding_window=3)
    assert AttentionMask.from_config(layer.get_config()).get_config() == layer.get_config()


def test_positions_start_anew_in_each_segment():
    segment_ids = np.array([[1, 1, 1, 2, 2, 0, 0], [3, 1, 1, 1, 1, 1, 2]])
    positions = Positions()(np.zeros((2, 7)), segment_ids=segment_ids)
    expected = [[0, 1, 2, 0, 1, 0, 0], [0, 0, 1, 2, 3, 4, 0]]
    np.testing.assert_array_equal(to_numpy(positions), expected)
