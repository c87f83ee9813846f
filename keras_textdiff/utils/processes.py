"""How many processes and devices work together, and which of them this one is."""

import json

import keras
import numpy as np

from keras_textdiff.utils.replicas import check_strategy, num_replicas, torch_index_and_count


def process_index_and_count():
    """Return this process's index and how many there are, as the backend knows them.

    On jax and torch after `keras_textdiff.distribution.initialize`; tensorflow counts one.
    """
    if keras.config.backend() == "jax":
        import jax

        return jax.process_index(), jax.process_count()
    return torch_index_and_count() if keras.config.backend() == "torch" else (0, 1)


def is_first_process():
    """Return whether this process writes what is written once: presets, checkpoints, logs."""
    return process_index_and_count()[0] == 0


def wait_for_all(name):
    """Wait until each process has come to the place that `name` names."""
    if process_index_and_count()[1] == 1:
        return
    if keras.config.backend() == "jax":
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)
    else:
        import torch.distributed

        torch.distributed.barrier()


def gather_json(value):
    """Return a list of what each process passes, a JSON value; all must call it."""
    if process_index_and_count()[1] == 1:
        return [value]
    if keras.config.backend() == "torch":
        import torch.distributed

        values = [None] * process_index_and_count()[1]
        torch.distributed.all_gather_object(values, value)
        return values
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), "uint8")
    sizes = np.ravel(multihost_utils.process_allgather(np.array([len(text)], "int32")))
    padded = np.pad(text, (0, sizes.max() - len(text)))
    texts = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(texts, sizes, strict=True)]


def is_readable(variable):
    """Return whether this process holds all of a variable."""
    value = variable.value
    return getattr(value, "is_fully_addressable", True) or value.is_fully_replicated


def whole_array(variable):
    """Return a variable as a NumPy array; where several processes hold parts, all must call it."""
    if is_readable(variable):
        return keras.ops.convert_to_numpy(variable)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(variable.value, tiled=True))


def num_devices():
    """Return how many devices train together, 1 where nothing says otherwise."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return num_replicas()
    return int(distribution.device_mesh.devices.size)


def num_row_groups():
    """Return among how many groups of devices an array's rows are split on jax, 1 without any."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.num_model_replicas)


def num_row_parts(model):
    """Return what the number of rows in a model's batches must be a multiple of."""
    return num_row_groups() if keras.config.backend() == "jax" else num_replicas(model)


def row_part():
    """Return `(index, count)`: which part of a batch's rows this process feeds, of how many.

    Each process has its own part, unless the rows of one go to the devices of several, as under
    tensor parallel: these read the same.
    """
    index, count = process_index_and_count()
    parts = count
    if keras.distribution.distribution() is not None:
        parts = min(count, num_row_groups())
    return index * parts // count, parts


def own_rows(batch):
    """Return this process's part of a batch, a dict of arrays whose rows divide evenly."""
    index, count = row_part()
    if count == 1:
        return batch
    size = len(batch["token_ids"]) // count
    return {name: value[index * size : (index + 1) * size] for name, value in batch.items()}


def check_together(model):
    """Raise a ValueError where processes or devices would not work on one model together."""
    count = process_index_and_count()[1]
    if keras.config.backend() == "jax" and count > 1 and keras.distribution.distribution() is None:
        raise ValueError(
            f"There are {count} processes, and without a keras.distribution each would train a "
            "model of its own. Call `keras.distribution.set_distribution` before the model is made."
        )
    check_strategy(model)
    _check_laid_out(model.variables)


def require_distribution():
    """Raise a ValueError on backends where `keras.distribution` has no effect."""
    if keras.config.backend() != "jax":
        raise ValueError(
            "keras.distribution splits models and batches on jax alone; on "
            f"{keras.config.backend()} it would do nothing. Set KERAS_BACKEND=jax, or train on "
            "one device."
        )


def _check_laid_out(variables):
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
        sharding = jax.sharding.NamedSharding(mesh, spec)
        # Each process has the whole array, and gives its devices their parts.
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

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
