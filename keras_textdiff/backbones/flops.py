"""Floating-point operations of a backbone, counted from its configuration.

Counted are matrix products, a multiplication and an addition each: 2 per weight and token, and
attention's 4 x heads x head size per query and key, masked pairs included, because they are
computed. The backward pass counts twice the forward pass. With N weights in matrices, S layers
and rows of L tokens that is 6 N + 12 S L x heads x head size per token and pass, the estimate of
Chowdhery et al. 2022, arXiv 2204.02311, appendix B, and Kaplan et al. 2020, arXiv 2001.08361. N
counts a tied embedding once, for the logits; looking tokens up is free. Not counted: norms,
activations, softmax, the optimizer; what gradient checkpointing computes twice.
"""

from keras_textdiff.backbones.config_checks import attention_parameters, feed_forward_parameters


def training_flops(config, length, *, num_passes=1, prefix_length=0, all_experts=False):
    """Return the operations of a training step for one row of a batch, all weights trained.

    Args:
        config: dict, a backbone's complete config, see `TextBackbone.complete_config`.
        length: int L, columns of the row.
        num_passes: int, denoiser calls of the objective; an encoder is called once for all.
        prefix_length: int P, columns that the encoder reads; 0 without one.
        all_experts: bool, whether all experts of a mixture count, as they are computed here, or
            those that are selected, as is the custom.

    Example:
    ```python
    config = TransformerBackbone.complete_config(transformer_config("base"))
    training_flops(config, length=512, num_passes=2)
    ```
    """
    encode, decode = forward_flops(config, length, prefix_length, all_experts)
    return 3 * (encode + num_passes * decode)


def forward_flops(config, length, prefix_length=0, all_experts=False):
    """Return the operations of `encode` and of `decode` with the logits, for one row.

    Args:
        config: see `training_flops`.
        length: see `training_flops`.
        prefix_length: see `training_flops`.
        all_experts: see `training_flops`.
    """
    heads_dim = config["num_query_heads"] * config["head_dim"]
    hidden = config["hidden_dim"]
    projections = 2 * attention_parameters(config)
    network = 2 * feed_forward_parameters(config)
    logits = 2 * config["vocabulary_size"] * hidden

    def attention(keys):
        return 4 * keys * heads_dim

    if "num_encoder_layers" not in config:
        num_layers, num_mixtures = config["num_layers"], len(set(config["expert_layers"]))
        inner = config["expert_intermediate_dim"] or config["intermediate_dim"]
        experts = config["num_experts"] if all_experts else config["num_experts_per_token"]
        mixture = 2 * config["num_experts"] * hidden + experts * 6 * hidden * inner
        per_token = (
            num_layers * (projections + attention(length))
            + (num_layers - num_mixtures) * network
            + num_mixtures * mixture
            + logits
        )
        return 0, length * per_token
    # The decoder's layers read the prefix through keys and values, made once in `encode`.
    keys_and_values = 4 * config["num_key_value_heads"] * config["head_dim"] * hidden
    encoder_layer = projections + attention(prefix_length) + network
    decoder_layer = (
        projections
        + attention(length)
        + (projections - keys_and_values)
        + attention(prefix_length)
        + network
    )
    encode = (
        config["num_encoder_layers"] * encoder_layer
        + config["num_decoder_layers"] * keys_and_values
    )
    decode = config["num_decoder_layers"] * decoder_layer + logits
    return prefix_length * encode, length * decode
