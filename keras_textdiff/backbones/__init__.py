"""Backbones: token ids to hidden states."""

from keras_textdiff.backbones.encoder_decoder_backbone import EncoderDecoderBackbone
from keras_textdiff.backbones.sizes import encoder_decoder_config, transformer_config
from keras_textdiff.backbones.transformer_backbone import TransformerBackbone

__all__ = [
    "EncoderDecoderBackbone",
    "TransformerBackbone",
    "encoder_decoder_config",
    "transformer_config",
]
