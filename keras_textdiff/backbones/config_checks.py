"""Checks and counts of the options that the backbones share."""

from keras_textdiff.backbones.layers.feature_normalization import NORMALIZATIONS
from keras_textdiff.backbones.layers.relative_position_bias import check_position_buckets
from keras_textdiff.backbones.layers.rotary_embedding import check_rope
from keras_textdiff.utils.checks import check_choice, check_integer, check_number


def check_shared_config(config, attention_modes, activations):
    """Raise a ValueError where an option that all backbones have is out of range.

    Args:
        config: dict, a backbone's complete config.
        attention_modes: what "attention" may be.
        activations: what "activation" may be.
    """
    for name in (
        "vocabulary_size",
        "num_query_heads",
        "num_key_value_heads",
        "head_dim",
        "hidden_dim",
        "intermediate_dim",
    ):
        check_integer(name, config[name], minimum=1)
    check_number("normalization_epsilon", config["normalization_epsilon"], minimum=0)
    if config["attention_scale"] is not None:
        check_number("attention_scale", config["attention_scale"], minimum=1e-12)
    if not 0 <= check_number("dropout", config["dropout"]) < 1:
        raise ValueError(f"`dropout` must lie in [0, 1). Got {config['dropout']}.")
    check_choice("attention", config["attention"], attention_modes)
    check_choice("normalization", config["normalization"], NORMALIZATIONS)
    check_choice("activation", config["activation"], tuple(activations))
    check_rope("rope", config["rope"], config["head_dim"])
    if config["num_query_heads"] % config["num_key_value_heads"]:
        raise ValueError(
            "`num_key_value_heads` must divide `num_query_heads`. Got "
            f"{config['num_key_value_heads']} and {config['num_query_heads']}."
        )
    if config["rope"] is not None and config["head_dim"] % 2:
        raise ValueError(f"Rotary embedding needs an even `head_dim`. Got {config['head_dim']}.")
    if config["num_position_buckets"] is not None:
        check_position_buckets(config["num_position_buckets"], config["maximum_position_distance"])


def attention_parameters(config):
    """Return the number of weights in the four projections of an attention layer, no biases."""
    heads = 2 * config["num_query_heads"] + 2 * config["num_key_value_heads"]
    return heads * config["head_dim"] * config["hidden_dim"]


def feed_forward_parameters(config):
    """Return the number of weights in a feed-forward network, no biases."""
    matrices = 3 if config["gated_feed_forward"] else 2
    return matrices * config["hidden_dim"] * config["intermediate_dim"]


def norm_parameters(config):
    """Return the number of weights in a norm of hidden states."""
    return (2 if config["normalization"] == "layer" else 1) * config["hidden_dim"]
