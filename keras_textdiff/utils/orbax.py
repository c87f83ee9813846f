"""Orbax, imported when it is needed."""

import sys

import keras


def import_orbax():
    """Return the module `orbax.checkpoint`."""
    if "jax" not in sys.modules and keras.config.backend() != "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")  # leave accelerators to the backend in use
    try:
        import orbax.checkpoint
    except ImportError:
        raise ImportError(
            "Checkpoints are written by Orbax, which is not installed. Run "
            "`pip install keras_textdiff[training]`."
        ) from None
    return orbax.checkpoint
