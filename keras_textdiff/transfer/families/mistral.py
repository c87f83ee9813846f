"""Mistral: Llama with a window on every layer and a head size of its own."""

from keras_textdiff.transfer.families.config import decoder_config, head_dim, rope, windows


def mistral_config(source):
    """Return the arguments of `TransformerBackbone` for a `MistralBackbone`."""
    return {
        **decoder_config(source),
        **windows(source.sliding_window, range(source.num_layers)),
        "head_dim": head_dim(source),
        "normalization_epsilon": source.layer_norm_epsilon,
        "rope": rope(source.rope_max_wavelength, source.rope_scaling_factor),
    }
