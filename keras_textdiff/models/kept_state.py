"""Variables that survive a run that fails."""

import contextlib

import keras
from keras import ops

JAX_STATE = (  # in the order in which Keras returns them
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


class KeptState:
    """Gives a model its variables back where a run fails on jax.

    There Keras empties the variables before a run's first step and fills them again behind it. A
    batch that cannot be read, or a step that cannot be traced, would leave the model without
    weights. A plain mixin that stands before a `keras.Model`.
    """

    def _get_jax_state(self, **wanted):
        """Return what Keras asks for, and keep it for `jax_state_sync`."""
        state = super()._get_jax_state(**wanted)
        names = [name for name in JAX_STATE if wanted.get(name)]
        self._jax_state = dict(zip(names, state, strict=True))
        return state

    def next_learning_rate(self):
        """Return the learning rate of the next step of `fit`, a tensor, without waiting for it.

        On jax the optimizer's variables are empty then; their values are in Keras' own hands, and
        given up to the next step: hence a copy.
        """
        mapping = []
        if keras.config.backend() == "jax" and not self._jax_state_synced:
            state = self._jax_state["optimizer_variables"]
            mapping = list(zip(self.optimizer.variables, state, strict=True))
        with keras.StatelessScope(state_mapping=mapping, initialize_variables=False):
            return ops.copy(self.optimizer.learning_rate)

    @contextlib.contextmanager
    def _state_kept(self, *datasets):
        """Fill the variables again when a run ends, however it ends.

        Args:
            *datasets: `IndexedBatches` or `BatchStream` of the run. What reading them raised is
                raised itself, where tensorflow raises an error of its own that quotes it.
        """
        try:
            yield
        except Exception as error:
            for batches in datasets:
                if _quotes(error, batches.error):
                    raise batches.error from error
            raise
        finally:
            if keras.config.backend() == "jax":
                self.jax_state_sync()
                self._jax_state = None


def _quotes(error, other):
    return other not in (None, error) and f"{type(other).__name__}: {other}" in str(error)
