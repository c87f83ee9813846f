"""Training: callbacks for runs that matter."""

from keras_textdiff.training.exact_resume import ExactResume

__all__ = ["ExactResume"]
