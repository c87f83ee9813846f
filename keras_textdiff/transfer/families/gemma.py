"""Gemma 1, 2 and 3: scaled embeddings, 1 + w norms, and from Gemma 2 on windows and soft caps."""

from keras_textdiff.transfer.families.config import decoder_config, rope, windows
from keras_textdiff.transfer.families.weights import (
    attention,
    blocks,
    embeddings,
    gated_feed_forward,
    heads_behind,
    scale,
)


def gemma_config(source):
    """Return the arguments of `TransformerBackbone` for a `GemmaBackbone` (Gemma 1 and 2)."""
    return {
        **_gemma_config(source),
        "intermediate_dim": source.intermediate_dim // 2,  # gate and up count as one there
        "rope": rope(10_000.0),
    }


def gemma3_config(source):
    """Return the arguments of `TransformerBackbone` for a text-only `Gemma3Backbone`."""
    if source.vision_encoder is not None:
        raise ValueError(
            "Only text backbones are supported. Got a Gemma3Backbone with a vision encoder. "
            "Load a text-only preset (such as 'gemma3_1b'), or build the backbone with "
            "`vision_encoder=None`."
        )
    if source.is_embedding_model or source.use_bidirectional_attention:
        raise ValueError(
            "Only autoregressive backbones are supported. Got a Gemma3Backbone with "
            f"is_embedding_model={source.is_embedding_model} and "
            f"use_bidirectional_attention={source.use_bidirectional_attention}, an embedding "
            "model. Load a preset for text generation."
        )
    config = {
        **_gemma_config(source),
        "intermediate_dim": source.intermediate_dim,
        "rope": rope(1_000_000.0, source.global_rope_scaling_factor),
    }
    if "sliding_window" in config:
        config["sliding_window_rope"] = rope(10_000.0, source.local_rope_scaling_factor)
    if source.use_query_key_norm:
        config["query_key_normalization"] = True
        config["query_key_epsilon"] = source.transformer_layers[0].attention.query_norm.epsilon
    return config


def _gemma_config(source):
    block = source.transformer_layers[0]
    if source.layer_norm.epsilon != block.pre_attention_norm.epsilon:
        raise ValueError(
            f"{type(source).__name__} applies `layer_norm_epsilon` to its last norm only: got "
            f"{source.layer_norm.epsilon} there and {block.pre_attention_norm.epsilon} in the "
            "blocks, and TransformerBackbone has one epsilon. Build the source with "
            f"layer_norm_epsilon={block.pre_attention_norm.epsilon}."
        )
    if source.use_post_ffw_norm != source.use_post_attention_norm:
        raise ValueError(
            "`use_post_ffw_norm` and `use_post_attention_norm` must be equal. Got "
            f"{source.use_post_ffw_norm} and {source.use_post_attention_norm}."
        )
    layers = enumerate(source.transformer_layers)
    windowed = [index for index, layer in layers if layer.use_sliding_window_attention]
    # KerasHub's blocks scale by the head size whatever `query_head_dim_normalize` says.
    by_head_dim = block.attention.query_head_dim_normalize
    heads = source.hidden_dim // source.num_query_heads
    return {
        **decoder_config(source),
        **windows(source.sliding_window_size, windowed),
        "head_dim": source.head_dim,
        "normalization": "rms_unit_offset",
        "normalization_epsilon": source.layer_norm.epsilon,
        "use_post_normalization": source.use_post_ffw_norm,
        "attention_scale": None if by_head_dim else heads**-0.5,
        "attention_soft_cap": source.attention_logit_soft_cap,
        "activation": "gelu_tanh",
        "scale_embeddings": True,
        "logit_soft_cap": source.final_logit_soft_cap,
    }


def gemma_weights(source):
    """Return where each weight of a Gemma 1 or 2 backbone goes."""
    weights = embeddings(source)
    for block, layer in blocks(source):
        weights += attention(
            block,
            query=layer.attention.query_dense,
            key=layer.attention.key_dense,
            value=layer.attention.value_dense,
            output=layer.attention.output_dense,
            kernel=heads_behind,
        )
        weights += gated_feed_forward(
            block, gate=layer.gating_ffw, up=layer.gating_ffw_2, down=layer.ffw_linear
        )
        weights += scale(f"{block}/attention_norm", layer.pre_attention_norm)
        weights += scale(f"{block}/feed_forward_norm", layer.pre_ffw_norm)
        if source.use_post_attention_norm:
            weights += scale(f"{block}/post_attention_norm", layer.post_attention_norm)
            weights += scale(f"{block}/post_feed_forward_norm", layer.post_ffw_norm)
    return weights + scale("layer_norm", source.layer_norm)


def gemma3_weights(source):
    """Return where each weight of a Gemma 3 backbone goes."""
    weights = gemma_weights(source)
    if source.use_query_key_norm:
        for block, layer in blocks(source):
            norms = layer.attention
            weights += scale(f"{block}/self_attention/query_norm", norms.query_norm)
            weights += scale(f"{block}/self_attention/key_norm", norms.key_norm)
    return weights
