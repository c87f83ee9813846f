"""Mixtral: Mistral with a mixture of experts on every layer."""

from keras_textdiff.transfer.families.config import decoder_config, rope, windows
from keras_textdiff.transfer.families.weights import (
    Weight,
    attention,
    blocks,
    concatenate,
    dense,
    embeddings,
    scale,
)


def mixtral_config(source):
    """Return the arguments of `TransformerBackbone` for a `MixtralBackbone`."""
    return {
        **decoder_config(source),
        **windows(source.sliding_window, range(source.num_layers)),
        "head_dim": source.hidden_dim // source.num_query_heads,
        "normalization_epsilon": source.layer_norm_epsilon,
        "rope": rope(source.rope_max_wavelength, source.rope_scaling_factor),
        "num_experts": source.num_experts,
        "num_experts_per_token": source.top_k,
        "expert_layers": list(range(source.num_layers)),
        "normalize_expert_weights": True,
    }


def mixtral_weights(source):
    """Return where each weight of a `MixtralBackbone` goes."""
    weights = embeddings(source)
    for block, layer in blocks(source):
        projections, mixture = layer._self_attention_layer, layer._sparse_moe_block
        weights += attention(
            block,
            query=projections.query_dense,
            key=projections.key_dense,
            value=projections.value_dense,
            output=projections.output_dense,
        )
        experts, destination = mixture.expert_bank, f"{block}/mixture_of_experts"
        gate_and_up = (
            experts._expert_feedforward_gate_dense,
            experts._expert_feedforward_intermediate_dense,
        )
        down = experts._expert_feedforward_output_dense
        weights += dense(f"{destination}/router", mixture._sparse_feedforward_gate_dense)
        weights.append(Weight(f"{destination}/gate_up", gate_and_up, concatenate))
        weights.append(Weight(f"{destination}/down", (down,)))
        weights += scale(f"{block}/attention_norm", layer._self_attention_layernorm)
        weights += scale(f"{block}/feed_forward_norm", layer._feedforward_layernorm)
    return weights + scale("layer_norm", source.layer_norm)
