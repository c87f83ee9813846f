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


def num_row_groups():
    """Return among how many groups of devices the rows of a batch are split, 1 without any."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.num_model_replicas)


def num_local_row_groups():
    """Return among how many groups the rows of this process's part of a batch are split."""
    return max(1, num_row_groups() // process_index_and_count()[1])


def require_distribution():
    """Raise a ValueError on backends where `keras.distribution` has no effect."""
    if keras.config.backend() != "jax":
        raise ValueError(
            "keras.distribution splits models and batches on jax alone; on "
            f"{keras.config.backend()} it would do nothing. Set KERAS_BACKEND=jax, or train on "
            "one device."
        )


def check_laid_out(variables):
    """Raise a ValueError where variables are not on the devices of the current distribution.

    Args:
        variables: Keras variables; they are laid out when they are made.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return
    require_distribution()
    devices = set(distribution.device_mesh.backend_mesh.devices.flat)
    for variable in variables:
        found = variable.value.sharding.device_set
        if found != devices:
            raise ValueError(
                f"The keras.distribution has {len(devices)} devices, and {variable.path!r} is on "
                f"{len(found)}. Variables are laid out when they are made: call "
                "`keras.distribution.set_distribution` before the model is built or loaded."
            )


def split_rows(batch):
    """Put a batch onto the devices of the current distribution.

    Args:
        batch: dict of arrays, "token_ids" `(B, L)` among them. Where B divides evenly, those whose
            first axis is B are split among the devices; the others go to all of them.

    Returns:
        Dict of tensors; without a distribution as the backend makes them.
    """
    distribution = keras.distribution.distribution()
    if distribution is None:
        return {name: keras.ops.convert_to_tensor(value) for name, value in batch.items()}
    require_distribution()
    import jax

    num_rows = len(batch["token_ids"])
    mesh = distribution.device_mesh.backend_mesh
    axis = distribution.batch_dim_name if num_rows % num_row_groups() == 0 else None

    def put(value):
        split = value.ndim and len(value) == num_rows
        spec = jax.sharding.PartitionSpec(*((axis,) if split else ()))
        return jax.device_put(value, jax.sharding.NamedSharding(mesh, spec))

    return {name: put(value) for name, value in batch.items()}


def on_all_devices(outputs):
    """Return a nest of tensors in compiled code so that each process can read all of them."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return outputs
    import jax

    mesh = distribution.device_mesh.backend_mesh
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.lax.with_sharding_constraint(outputs, whole)
