"""Counts of operations, against the estimate from the number of parameters."""

import pytest

from keras_textdiff.backbones import (
    EncoderDecoderBackbone,
    TransformerBackbone,
    encoder_decoder_config,
    transformer_config,
)
from keras_textdiff.backbones.config_checks import norm_parameters
from keras_textdiff.backbones.flops import forward_flops, training_flops
from keras_textdiff.objectives import NextToken, Sundae
from tests import tiny

pytestmark = pytest.mark.backend_free
LENGTH, PREFIX = 96, 40


def matrices(config, cls):
    """All parameters but norms, biases of positions, and what is only looked up."""
    count = cls.parameter_count_from_config(config)
    config = cls.complete_config(config)
    heads, buckets = config["num_query_heads"], config["num_position_buckets"] or 0
    if cls is TransformerBackbone:
        count -= (2 * config["num_layers"] + 1) * norm_parameters(config) + 2 * buckets * heads
    else:
        layers = config["num_encoder_layers"], config["num_decoder_layers"]
        count -= (2 * layers[0] + 3 * layers[1] + 2) * norm_parameters(config)
        count -= 3 * buckets * heads
    if not config["tie_embeddings"]:
        count -= config["vocabulary_size"] * config["hidden_dim"]
    return count


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", ["tiny", "base"])
def test_decoder(size, tied):
    config = {**transformer_config(size, vocabulary_size=1000), "tie_embeddings": tied}
    heads_dim = config["num_query_heads"] * config["head_dim"]
    per_token = 6 * matrices(config, TransformerBackbone)
    per_token += 12 * config["num_layers"] * LENGTH * heads_dim
    config = TransformerBackbone.complete_config(config)
    assert training_flops(config, LENGTH) == LENGTH * per_token
    assert training_flops(config, LENGTH, num_passes=3) == 3 * LENGTH * per_token


def test_mixtures():
    config = {**tiny.BACKBONE, "num_experts": 8, "expert_layers": (1,), "num_experts_per_token": 2}
    attention = 12 * 2 * LENGTH * 4 * 8
    everything = 6 * matrices(config, TransformerBackbone) + attention
    idle = 6 * (8 - 2) * 3 * 32 * 48  # experts that are not selected
    config = TransformerBackbone.complete_config(config)
    assert training_flops(config, LENGTH, all_experts=True) == LENGTH * everything
    assert training_flops(config, LENGTH) == LENGTH * (everything - idle)


def test_encoder_decoder():
    config = encoder_decoder_config("tiny", vocabulary_size=1000)
    hidden, heads_dim = 128, 2 * 64
    attention = 4 * hidden * heads_dim
    encoder = 2 * (attention + 3 * hidden * 256)
    of_prefix = encoder + 2 * attention // 2  # and the decoder's keys and values
    of_canvas = matrices(config, EncoderDecoderBackbone) - of_prefix
    encode = PREFIX * (2 * of_prefix + 2 * 4 * PREFIX * heads_dim)
    decode = LENGTH * (2 * of_canvas + 2 * 4 * (LENGTH + PREFIX) * heads_dim)
    config = EncoderDecoderBackbone.complete_config(config)
    assert forward_flops(config, LENGTH, PREFIX) == (encode, decode)
    assert training_flops(config, LENGTH, num_passes=2, prefix_length=PREFIX) == (
        3 * encode + 6 * decode
    )


def test_passes():
    assert NextToken().num_passes == 1
    assert [Sundae(unrolls).num_passes for unrolls in (0, 1, 3)] == [1, 2, 4]
