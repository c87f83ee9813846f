"""How many processes and devices work together, and which of them this one is."""

import keras


def process_index_and_count():
    """Return this process's index and how many there are, as the backend knows them.

    On jax after `keras.distribution.initialize`; tensorflow and torch count one process.
    """
    if keras.config.backend() != "jax":
        return 0, 1
    import jax

    return jax.process_index(), jax.process_count()


def num_devices():
    """Return the number of devices of the current `keras.distribution`, 1 without one."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.device_mesh.devices.size)
