"""Models: what users train and generate with."""

from keras_textdiff.models.causal_lm import CausalLM
from keras_textdiff.models.causal_lm_preprocessor import CausalLMPreprocessor
from keras_textdiff.models.diffusion_lm import DiffusionLM
from keras_textdiff.models.diffusion_lm_preprocessor import DiffusionLMPreprocessor

__all__ = ["CausalLM", "CausalLMPreprocessor", "DiffusionLM", "DiffusionLMPreprocessor"]
