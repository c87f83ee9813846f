"""Training: callbacks and an optimizer for runs that matter."""

from keras_textdiff.training.exact_resume import ExactResume
from keras_textdiff.training.guarded_optimizer import GuardedOptimizer

__all__ = ["ExactResume", "GuardedOptimizer"]
