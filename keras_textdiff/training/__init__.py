"""Training: callbacks and an optimizer for runs that matter."""

from keras_textdiff.training.exact_resume import ExactResume
from keras_textdiff.training.guarded_optimizer import GuardedOptimizer
from keras_textdiff.training.run_log import RunLog
from keras_textdiff.training.run_log_file import read_run_log

__all__ = ["ExactResume", "GuardedOptimizer", "RunLog", "read_run_log"]
