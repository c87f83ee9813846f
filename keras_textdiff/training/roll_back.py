"""Back to the last checkpoint where training has gone wrong for good."""

import keras

from keras_textdiff.training.exact_resume import ExactResume
from keras_textdiff.training.guarded_optimizer import GuardedOptimizer
from keras_textdiff.utils.checks import check_integer


class RollBack(keras.callbacks.Callback):
    """Goes back to the newest valid checkpoint where too many steps in a row were skipped.

    Weights and optimizer become the checkpoint's again; the data go on where they are, so what led
    there is not seen again (as in Chowdhery et al. 2022). It needs a `GuardedOptimizer`, which
    counts the skipped steps, and the run's `ExactResume`.

    Args:
        resume: `ExactResume` among the callbacks of the same `fit`.
        after_skipped: int, skipped steps in a row.
        max_roll_backs: int; one more ends training with an error.
        check_every: int, steps from one look at the optimizer's count to the next; it makes the
            device wait.

    Raises:
        ValueError: when training begins, without that optimizer or callback.
        RuntimeError: when one more than `max_roll_backs` would be needed, or none can be done
            for want of a checkpoint.

    Example:
    ```python
    resume = ExactResume("runs/1/checkpoints", save_every_steps=500)
    lm.compile(optimizer=GuardedOptimizer(keras.optimizers.AdamW(1e-4)))
    lm.fit(texts, callbacks=[resume, RollBack(resume, after_skipped=20)])
    ```

    Reference: Chowdhery et al. 2022, arXiv 2204.02311, section 5.1.
    """

    def __init__(self, resume, *, after_skipped=20, max_roll_backs=3, check_every=10):
        super().__init__()
        if not isinstance(resume, ExactResume):
            raise ValueError(f"`resume` must be an ExactResume. Got {type(resume).__name__}.")
        self._resume = resume
        self.after_skipped = check_integer("after_skipped", after_skipped, minimum=1)
        self.max_roll_backs = check_integer("max_roll_backs", max_roll_backs, minimum=1)
        self.check_every = check_integer("check_every", check_every, minimum=1)
        self.num_roll_backs = 0
        self._num_steps = 0

    def on_train_begin(self, logs=None):
        """Refuse a run in which nothing is counted or saved."""
        if self._guard() is None:
            raise ValueError(
                "RollBack needs an optimizer that counts the steps it skips. Compile with "
                f"GuardedOptimizer(...). Got {type(self.model.optimizer).__name__}."
            )
        if not self._resume.is_running:
            raise ValueError("RollBack's ExactResume must be among the callbacks of the same fit.")

    def on_train_batch_end(self, batch, logs=None):
        """Look at the count, and go back if need be."""
        self._num_steps += 1
        if self._num_steps % self.check_every:
            return
        guard = self._guard()  # jax's state comes back to the model here
        skipped = int(keras.ops.convert_to_numpy(guard.num_skipped_in_a_row.value))
        if skipped < self.after_skipped:
            return
        if self.num_roll_backs == self.max_roll_backs:
            raise RuntimeError(
                f"{skipped} steps in a row were skipped, after {self.num_roll_backs} roll-backs. "
                "Look at the data and the learning rate."
            )
        self.num_roll_backs += 1
        self._resume.roll_back()
        guard.num_skipped_in_a_row.assign(0)

    def _guard(self):
        """Return the optimizer that counts, perhaps inside one that scales losses, or None."""
        optimizer = self.model.optimizer
        while not isinstance(optimizer, GuardedOptimizer):
            optimizer = getattr(optimizer, "inner_optimizer", None)
            if optimizer is None:
                return None
        return optimizer
