"""Evaluation: what a trained model is worth."""

from keras_textdiff.evaluation.code_problem import code_problem
from keras_textdiff.evaluation.denoiser_cross_entropy import denoiser_cross_entropy
from keras_textdiff.evaluation.sandbox.sandbox import Sandbox
from keras_textdiff.evaluation.sandbox.sandbox_result import SandboxResult
from keras_textdiff.evaluation.sandbox.sandbox_unavailable import SandboxUnavailable

__all__ = [
    "Sandbox",
    "SandboxResult",
    "SandboxUnavailable",
    "code_problem",
    "denoiser_cross_entropy",
]
