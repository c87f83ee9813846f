import pytest

from keras_textdiff.backbones import TransformerBackbone
from keras_textdiff.presets import memory
from tests import tiny

OPTIONS = [
    {},
    {"tie_embeddings": False, "num_learned_positions": 7},
    {"normalization": "layer", "query_key_normalization": True, "use_post_normalization": True},
    {"normalization": "rms_unit_offset", "query_key_normalization": True},
    {"use_qkv_bias": True, "use_attention_output_bias": True, "use_attention_sinks": True},
    {"use_feed_forward_bias": True},
    {"use_feed_forward_bias": True, "gated_feed_forward": False, "activation": "relu"},
    {"num_experts": 3, "expert_layers": (1,), "use_expert_bias": True},
    {"num_experts": 3, "expert_layers": [0, 1, 1], "expert_intermediate_dim": 5},
    {"num_position_buckets": 8, "rope": None},
    {"num_layers": 3, "head_dim": 6, "num_key_value_heads": 1, "rope": None, "dropout": 0.1},
    {"attention": "block", "block_length": 2, "sliding_window": 2, "sliding_window_layers": (0,)},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_parameter_count_is_exact(options):
    config = {**tiny.BACKBONE, **options}
    backbone = TransformerBackbone(**config)
    count = TransformerBackbone.parameter_count_from_config
    assert count(config) == count(backbone.get_config()) == backbone.count_params()


def test_parameter_count_checks_like_the_constructor():
    count = TransformerBackbone.parameter_count_from_config
    with pytest.raises(ValueError, match="needs \\['vocabulary_size', "):
        count({"num_layers": 2})
    with pytest.raises(ValueError, match="`num_layers` must be at least 1"):
        count({**tiny.BACKBONE, "num_layers": 0})


@pytest.mark.parametrize(
    "dtype, size",
    [
        ("float32", 4), ("bfloat16", 2), ("float64", 8), ("mixed_bfloat16", 4),
        ("int8_from_float32", 1), ("int4/128_from_bfloat16", 0.5), ("float8_from_bfloat16", 2),
    ],
)  # fmt: skip
def test_bytes_per_parameter(dtype, size):
    import keras

    assert memory.bytes_per_parameter(keras.dtype_policies.get(dtype)) == size


def test_the_memory_of_this_machine():
    assert 0.1 < memory.machine_gigabytes() < 1e6
