"""Phi-3: Llama with "su" scaled rotary frequencies for long contexts."""

from keras_textdiff.transfer.families.config import decoder_config, rope
from keras_textdiff.transfer.families.weights import (
    attention,
    blocks,
    embeddings,
    gated_feed_forward,
    scale,
)


def phi3_config(source):
    """Return the arguments of `TransformerBackbone` for a `Phi3Backbone`."""
    config = rope(source.rope_max_wavelength)
    if source.rope_scaling_type == "su":
        config.update(
            scaling="su",
            short_factors=list(source.rope_scaling_short_factor),
            long_factors=list(source.rope_scaling_long_factor),
            maximum_length=source.max_sequence_length,
            original_length=source.pretraining_sequence_length,
        )
    return {
        **decoder_config(source),
        "head_dim": source.hidden_dim // source.num_query_heads,
        "normalization_epsilon": source.layer_norm_epsilon,
        "rope": config,
    }


def phi3_weights(source):
    """Return where each weight of a `Phi3Backbone` goes."""
    weights = embeddings(source)
    for block, layer in blocks(source):
        weights += attention(
            block,
            query=layer.attention.query_dense,
            key=layer.attention.key_dense,
            value=layer.attention.value_dense,
            output=layer.attention.output_dense,
        )
        weights += gated_feed_forward(
            block,
            gate=layer.feedforward_gate_dense,
            up=layer.feedforward_intermediate_dense,
            down=layer.feedforward_output_dense,
        )
        weights += scale(f"{block}/attention_norm", layer.pre_attention_layernorm)
        weights += scale(f"{block}/feed_forward_norm", layer.post_attention_layernorm)
    return weights + scale("layer_norm", source.layer_norm)
