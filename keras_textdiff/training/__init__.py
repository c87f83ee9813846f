"""Training: callbacks, an optimizer and a schedule for runs that matter."""

from keras_textdiff.training.exact_resume import ExactResume
from keras_textdiff.training.guarded_optimizer import GuardedOptimizer
from keras_textdiff.training.roll_back import RollBack
from keras_textdiff.training.run_log import RunLog
from keras_textdiff.training.run_log_file import read_run_log
from keras_textdiff.training.warm_up import WarmUp

__all__ = ["ExactResume", "GuardedOptimizer", "RollBack", "RunLog", "WarmUp", "read_run_log"]
