"""Llama 2 and 3, and the layer names that Mistral, Qwen and Qwen3 share with them."""

from keras_textdiff.transfer.families.config import decoder_config, rope
from keras_textdiff.transfer.families.weights import (
    attention,
    blocks,
    embeddings,
    gated_feed_forward,
    scale,
)


def llama_config(source):
    """Return the arguments of `TransformerBackbone` for Llama 2 and 3."""
    # `rope_position_scaling_factor` is left out: KerasHub's rotary layer overrides the method
    # that would apply it, so the source computes without it on every backend.
    config = rope(source.rope_max_wavelength)
    if source.rope_low_freq_factor is not None:
        config.update(
            scaling="llama3",
            factor=source.rope_frequency_adjustment_factor,
            low_frequency_factor=source.rope_low_freq_factor,
            high_frequency_factor=source.rope_high_freq_factor,
            original_length=source.rope_pretraining_sequence_length,
        )
    return {
        **decoder_config(source),
        "head_dim": source.hidden_dim // source.num_query_heads,
        "normalization_epsilon": source.layer_norm_epsilon,
        "rope": config,
    }


def llama_weights(source):
    """Return where each weight of a Llama, Mistral or Qwen2.5 backbone goes."""
    weights = embeddings(source)
    for block, layer in blocks(source):
        weights += llama_attention(block, layer)
        weights += llama_feed_forward(block, layer)
    return weights + scale("layer_norm", source.layer_norm)


def llama_attention(block, layer):
    """Map the attention and the norms of one block."""
    projections = layer._self_attention_layer
    return [
        *attention(
            block,
            query=projections._query_dense,
            key=projections._key_dense,
            value=projections._value_dense,
            output=projections._output_dense,
        ),
        *scale(f"{block}/attention_norm", layer._self_attention_layernorm),
        *scale(f"{block}/feed_forward_norm", layer._feedforward_layernorm),
    ]


def llama_feed_forward(block, layer):
    """Map the feed-forward network that `layer` holds."""
    return gated_feed_forward(
        block,
        gate=layer._feedforward_gate_dense,
        up=layer._feedforward_intermediate_dense,
        down=layer._feedforward_output_dense,
    )
