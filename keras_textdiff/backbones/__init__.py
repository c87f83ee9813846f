"""Backbones: token ids to hidden states."""

from keras_textdiff.backbones.transformer_backbone import TransformerBackbone

__all__ = ["TransformerBackbone"]
