"""Copies of a model that train together: torch's processes, and a tensorflow strategy's devices.

On jax there is nothing to do: arrays are those of all devices, and XLA adds up what they hold.
"""

import contextlib

import keras


def num_replicas(model=None):
    """Return how many copies of a model are trained together.

    Args:
        model: a `keras.Model`; may be None in its training step, where tensorflow knows.
    """
    if keras.config.backend() == "torch":
        return torch_index_and_count()[1]
    if keras.config.backend() == "tensorflow":
        return _strategy(model).num_replicas_in_sync
    return 1


def _strategy(model):
    import tensorflow as tf

    return tf.distribute.get_strategy() if model is None else model.distribute_strategy


def check_strategy(model):
    """Raise a ValueError for a model made under a strategy of tensorflow that is not supported."""
    if keras.config.backend() != "tensorflow":
        return
    import tensorflow as tf

    strategy = _strategy(model)
    supported = (tf.distribute.MirroredStrategy, tf.distribute.OneDeviceStrategy)
    if strategy.num_replicas_in_sync > 1 and type(strategy) not in supported:
        raise ValueError(
            "On tensorflow, models train on one device or under tf.distribute.MirroredStrategy, "
            f"the devices of one machine. Got {type(strategy).__name__}. Use MirroredStrategy, or "
            "KERAS_BACKEND=jax for TPUs and several machines."
        )
    if strategy.num_replicas_in_sync > 1 and model.jit_compile:
        raise ValueError(
            "tf.distribute.MirroredStrategy does not train XLA programs together. Compile the "
            "model with jit_compile=False."
        )


def mean_over_replicas(x):
    """Return the mean of a float tensor over all replicas, without a gradient.

    Call it in a training step, in each replica.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return x
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.stop_gradient(x))
    if backend == "torch" and torch_index_and_count()[1] > 1:
        import torch

        total = x.detach().clone()
        torch.distributed.all_reduce(total)
        return total / torch_index_and_count()[1]
    return x


def replica_index():
    """Return which replica this code runs for, an int or, under tf.distribute, a tensor."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return 0
        return context.replica_id_in_sync_group
    return torch_index_and_count()[0] if backend == "torch" else 0


def torch_index_and_count():
    """Return torch's rank and how many processes there are; `(0, 1)` without a process group."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@contextlib.contextmanager
def averaged_gradients(model):
    """Train torch's processes as one: equal variables to begin with, then mean gradients.

    Args:
        model: a compiled `keras.Model` whose optimizer is built.
    """
    count = torch_index_and_count()[1] if keras.config.backend() == "torch" else 1
    if count == 1:
        yield
        return
    import torch

    with torch.no_grad():
        for variable in [*model.variables, *model.optimizer.variables]:
            torch.distributed.broadcast(variable.value, 0)
    optimizer = model.optimizer
    apply = optimizer.apply

    def averaged_apply(gradients, variables=None):
        for gradient in gradients:
            if gradient is not None:
                torch.distributed.all_reduce(gradient)
                gradient /= count
        return apply(gradients, variables)

    object.__setattr__(optimizer, "apply", averaged_apply)
    try:
        yield
    finally:
        object.__delattr__(optimizer, "apply")
