"""Variables that survive a run that fails."""

import contextlib

import keras

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

    @contextlib.contextmanager
    def _state_kept(self):
        """Fill the variables again when a run ends, however it ends."""
        try:
            yield
        finally:
            if keras.config.backend() == "jax":
                self.jax_state_sync()
                self._jax_state = None
