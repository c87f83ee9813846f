"""Qwen3-MoE: Qwen3 with a mixture of experts on some of its layers."""

from keras_textdiff.transfer.families.llama import llama_feed_forward
from keras_textdiff.transfer.families.qwen import qwen3_attention, qwen3_config
from keras_textdiff.transfer.families.weights import Weight, blocks, dense, embeddings, scale


def qwen3_moe_config(source):
    """Return the arguments of `TransformerBackbone` for a `Qwen3MoeBackbone`."""
    config = qwen3_config(source)
    layers = [i for i, layer in enumerate(source.transformer_layers) if layer.is_sparse_mlp]
    if layers:
        config.update(
            num_experts=source.num_experts,
            num_experts_per_token=source.top_k,
            expert_layers=layers,
            expert_intermediate_dim=source.moe_intermediate_dim,
            normalize_expert_weights=source.norm_top_k_prob,
        )
    return config


def qwen3_moe_weights(source):
    """Return where each weight of a `Qwen3MoeBackbone` goes."""
    weights = embeddings(source)
    for block, layer in blocks(source):
        weights += qwen3_attention(block, layer)
        if not layer.is_sparse_mlp:
            weights += llama_feed_forward(block, layer.mlp)
            continue
        experts, destination = layer.mlp.expert_bank, f"{block}/mixture_of_experts"
        gate_up, down = (
            experts._expert_feedforward_gate_dense,
            experts._expert_feedforward_output_dense,
        )
        weights += dense(f"{destination}/router", layer.mlp._sparse_feedforward_gate_dense)
        weights.append(Weight(f"{destination}/gate_up", (gate_up,)))
        weights.append(Weight(f"{destination}/down", (down,)))
    return weights + scale("layer_norm", source.layer_norm)
