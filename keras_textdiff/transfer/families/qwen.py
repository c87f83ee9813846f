"""Qwen2.5: Llama with biases on query, key and value. Qwen3: normalized query and key instead.

KerasHub applies their sliding windows on tensorflow only; on jax and torch its attention returns
before it reaches them. What the configuration says is what counts here: the window is applied.
"""

from keras_textdiff.transfer.families.config import decoder_config, head_dim, rope, windows
from keras_textdiff.transfer.families.llama import llama_attention, llama_feed_forward
from keras_textdiff.transfer.families.weights import blocks, embeddings, scale


def qwen_config(source):
    """Return the arguments of `TransformerBackbone` for a `QwenBackbone` (Qwen2.5)."""
    window = source.sliding_window_size if source.use_sliding_window_attention else None
    return {
        **decoder_config(source),
        **windows(window, range(source.num_layers)),
        "head_dim": source.hidden_dim // source.num_query_heads,
        "normalization_epsilon": source.layer_norm_epsilon,
        "rope": rope(source.rope_max_wavelength, source.rope_scaling_factor),
        "use_qkv_bias": True,
    }


def qwen3_config(source):
    """Return the arguments of `TransformerBackbone` for a `Qwen3Backbone`."""
    query_norm = source.transformer_layers[0]._self_attention_layer._query_dense_layer_norm
    return {
        **decoder_config(source),
        **windows(source.sliding_window_size, range(source.num_layers)),
        "head_dim": head_dim(source),
        "normalization_epsilon": source.layer_norm_epsilon,
        "rope": rope(source.rope_max_wavelength, source.rope_scaling_factor),
        "query_key_normalization": True,
        # KerasHub does not hand `layer_norm_epsilon` down to these norms.
        "query_key_epsilon": query_norm.epsilon,
    }


def qwen3_weights(source):
    """Return where each weight of a `Qwen3Backbone` goes."""
    weights = embeddings(source)
    for block, layer in blocks(source):
        weights += qwen3_attention(block, layer)
        weights += llama_feed_forward(block, layer)
    return weights + scale("layer_norm", source.layer_norm)


def qwen3_attention(block, layer):
    """Map the attention and the norms of one block."""
    norms = layer._self_attention_layer
    return [
        *llama_attention(block, layer),
        *scale(f"{block}/self_attention/query_norm", norms._query_dense_layer_norm),
        *scale(f"{block}/self_attention/key_norm", norms._key_dense_layer_norm),
    ]
