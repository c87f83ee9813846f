"""How a callback takes part in `fit` before the first batch is read."""

import abc
import contextlib

import keras


class FitCallback(keras.callbacks.Callback, abc.ABC):
    """A callback that is asked before training starts, and told after it ended in any way."""

    @abc.abstractmethod
    def around_fit(self, model, arguments):
        """Prepare a run.

        Args:
            model: the model that trains.
            arguments: dict of all arguments of `keras.Model.fit`, which may be changed: "x" are
                the batches (`IndexedBatches` or `BatchStream`), "callbacks" a list.

        Returns:
            Context manager; training runs inside.
        """


@contextlib.contextmanager
def around_fit(model, arguments):
    """Enter what the callbacks among `arguments` prepare."""
    with contextlib.ExitStack() as stack:
        for callback in list(arguments["callbacks"]):
            if isinstance(callback, FitCallback):
                stack.enter_context(callback.around_fit(model, arguments))
        yield
