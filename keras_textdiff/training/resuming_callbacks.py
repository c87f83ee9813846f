"""The list of callbacks of a run that may begin in the middle of an epoch."""

import keras


class ResumingCallbacks(keras.callbacks.CallbackList):
    """Runs Keras' loop past the steps that another run has done, without doing them again.

    For these steps the model's train function is replaced by one that only takes the data, and no
    callback hears of them. Thus Keras counts steps, epochs and batches as in a run that was never
    stopped, also where nothing but the end of an epoch is left.

    Args:
        callbacks: list of callbacks.
        resume: `ExactResume`.
        num_done: int, steps of the first epoch that are done.
        **kwargs: see `keras.callbacks.CallbackList`.
    """

    def __init__(self, callbacks, resume, num_done, **kwargs):
        self._resume = resume
        self._num_done = num_done
        self._train_function = None
        super().__init__(callbacks, **kwargs)

    def on_train_begin(self, logs=None):
        """Restore the run once all callbacks have begun."""
        super().on_train_begin(logs)
        self._resume.train_began(self.callbacks, self._flush_futures)
        if self._num_done:
            self._train_function = self.model.train_function
            self.model.train_function = self._take_data

    def _take_data(self, *arguments):
        logs = {metric.name: 0.0 for metric in self._model.metrics}
        if keras.config.backend() == "torch":
            return logs
        next(arguments[-1])
        return (logs, arguments[0]) if keras.config.backend() == "jax" else logs

    def _begin_training(self):
        if self._train_function is not None:
            self._model.train_function = self._train_function
            self._train_function = None

    def on_epoch_begin(self, epoch, logs=None):
        """Undo what callbacks did to an epoch that had begun before."""
        super().on_epoch_begin(epoch, logs)
        self._resume.epoch_began(epoch, go_on=self._num_done > 0)

    def on_train_batch_begin(self, batch, logs=None):
        """Pass the call on, for steps that are trained."""
        if batch >= self._num_done:
            self._begin_training()
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        """Pass the call on, for steps that are trained; then save if it is time."""
        if batch >= self._num_done:
            super().on_train_batch_end(batch, logs)
            self._resume.step_ended(batch + 1)
        elif batch == self._num_done - 1:
            self._resume.steps_were_passed()

    def on_epoch_end(self, epoch, logs=None):
        """Pass the call on, and save if it is time."""
        self._begin_training()
        self._num_done = 0
        super().on_epoch_end(epoch, logs)
        self._resume.epoch_ended(epoch)
