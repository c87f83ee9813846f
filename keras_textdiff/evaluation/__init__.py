"""Evaluation: what a trained model is worth."""

from keras_textdiff.evaluation.denoiser_cross_entropy import denoiser_cross_entropy

__all__ = ["denoiser_cross_entropy"]
