"""SmolLM3: Llama with some layers that use no rotary embedding."""

from keras_textdiff.transfer.families.config import rope
from keras_textdiff.transfer.families.weights import (
    Unused,
    attention,
    blocks,
    embeddings,
    gated_feed_forward,
    scale,
    split_heads,
)


def smollm3_config(source):
    """Return the arguments of `TransformerBackbone` for a `SmolLM3Backbone`."""
    if source.partial_rotary_factor != 1:
        raise ValueError(
            "A SmolLM3Backbone must rotate whole heads (partial_rotary_factor=1.0). Got "
            f"partial_rotary_factor={source.partial_rotary_factor}."
        )
    layers = enumerate(source.transformer_layers)
    return {
        "vocabulary_size": source.vocabulary_size,
        "num_layers": source.num_layers,
        "num_query_heads": source.num_attention_heads,
        "num_key_value_heads": source.num_key_value_heads,
        "head_dim": source.hidden_dim // source.num_attention_heads,
        "hidden_dim": source.hidden_dim,
        "intermediate_dim": source.intermediate_dim,
        "rope": rope(source.rope_theta),
        "layers_without_rope": [i for i, layer in layers if not layer.self_attn.use_rope],
        "normalization_epsilon": source.layer_norm_epsilon,
        "use_qkv_bias": source.attention_bias,
        "use_feed_forward_bias": source.mlp_bias,
        "tie_embeddings": source.token_embedding.tie_weights,
    }


def smollm3_weights(source):
    """Return where each weight of a `SmolLM3Backbone` goes."""
    weights = embeddings(source)
    heads = split_heads(source.hidden_dim // source.num_attention_heads)
    for block, layer in blocks(source):
        weights += attention(
            block,
            query=layer.self_attn.q_proj,
            key=layer.self_attn.k_proj,
            value=layer.self_attn.v_proj,
            output=layer.self_attn.o_proj,
            kernel=heads,
            bias=heads,
        )
        weights += gated_feed_forward(
            block, gate=layer.mlp.gate_proj, up=layer.mlp.up_proj, down=layer.mlp.down_proj
        )
        weights += scale(f"{block}/attention_norm", layer.input_layernorm)
        weights += scale(f"{block}/feed_forward_norm", layer.post_attention_layernorm)
        frequencies = layer.self_attn.rotary_embedding.inv_freq
        weights.append(Unused(frequencies, "rotary frequencies follow from rope_theta"))
    return weights + scale("layer_norm", source.norm)
