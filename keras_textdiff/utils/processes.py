"""How many processes and devices train together."""

import keras


def num_processes():
    """Return the number of processes that share one model; more than one on jax only."""
    if keras.config.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def num_devices():
    """Return the number of devices of the current `keras.distribution`, 1 without one."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.device_mesh.devices.size)
