"""GPT-OSS: experts with biases, attention sinks, YaRN, a window on every other layer."""

from keras_textdiff.transfer.families.config import decoder_config, head_dim, rope, windows
from keras_textdiff.transfer.families.weights import (
    Weight,
    attention,
    blocks,
    deinterleave,
    dense,
    embeddings,
    scale,
)


def gpt_oss_config(source):
    """Return the arguments of `TransformerBackbone` for a `GptOssBackbone`."""
    # A windowed layer sees the key `sliding_window` positions back too: one more than ours.
    window = source.sliding_window + 1 if source.sliding_window else None
    rotary = source.transformer_layers[0].self_attention_layer.rotary_embedding_layer
    return {
        **decoder_config(source),
        **windows(window, range(1, source.num_layers, 2)),
        "head_dim": head_dim(source),
        "normalization_epsilon": source.layer_norm_epsilon,
        "rope": {
            **rope(source.rope_max_wavelength),
            "scaling": "yarn",
            "factor": source.rope_scaling_factor,
            "original_length": rotary.original_max_position_embeddings,
        },
        "use_qkv_bias": True,
        "use_attention_output_bias": True,
        "use_attention_sinks": True,
        "activation": "clamped_swiglu",
        "num_experts": source.num_experts,
        "num_experts_per_token": source.top_k,
        "expert_layers": list(range(source.num_layers)),
        # A softmax over the selected logits is the softmax over all, renormalized.
        "normalize_expert_weights": True,
        "use_expert_bias": True,
    }


def gpt_oss_weights(source):
    """Return where each weight of a `GptOssBackbone` goes."""
    weights = embeddings(source)
    for block, layer in blocks(source):
        projections, mixture = layer.self_attention_layer, layer.sparse_moe_block
        weights += attention(
            block,
            query=projections.query_dense,
            key=projections.key_dense,
            value=projections.value_dense,
            output=projections.output_dense,
        )
        weights.append(Weight(f"{block}/self_attention/sinks", (projections.sinks,)))
        experts, destination = mixture.experts, f"{block}/mixture_of_experts"
        weights += dense(f"{destination}/router", mixture.router.router_dense)
        for name, source_weight, transform in (
            ("gate_up", experts.gate_up_proj, deinterleave),
            ("gate_up_bias", experts.gate_up_proj_bias, deinterleave),
            ("down", experts.down_proj, None),
            ("down_bias", experts.down_proj_bias, None),
        ):
            weights.append(Weight(f"{destination}/{name}", (source_weight,), transform))
        weights += scale(f"{block}/attention_norm", layer.input_layernorm)
        weights += scale(f"{block}/feed_forward_norm", layer.post_attention_layernorm)
    return weights + scale("layer_norm", source.layer_norm)
