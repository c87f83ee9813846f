"""Adam's step in one pass over the weights, by a kernel of torch's or TensorFlow's own.

Keras makes a dozen passes, most of which write arrays as large as all weights: a quarter of a
training step on torch on CPU. On jax, XLA makes one pass of them.
"""

import functools

import keras
from keras import ops

from keras_textdiff.utils.replicas import num_replicas

# torch corrects averages that start from zero by the number of steps. After so many there is
# nothing to correct: Keras' learning rate holds the correction already.
LATE_STEP = 1e9


def fuse_adam(optimizer, model=None):
    """Let a Keras `Adam` or `AdamW` take its steps by a kernel for that.

    The formula stays Keras' own, and so does all around it: clipping, decay, accumulation,
    averages, the state that is saved. Other optimizers, jax, `amsgrad`, replicas, sparse gradients,
    and weights or gradients that are not plain float32 are left to Keras.

    Args:
        optimizer: `keras.Optimizer`, or one that wraps another as its `inner_optimizer`.
        model: the `keras.Model` that it trains, whose replicas count, see `num_replicas`.
    """
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    if not isinstance(optimizer, keras.optimizers.Adam) or optimizer.amsgrad:
        return
    backend = keras.config.backend()
    if backend == "torch" and _is_of_keras(optimizer, "_parallel_update_step"):
        optimizer._parallel_update_step = functools.partial(_torch_step, optimizer)
    alone = backend == "tensorflow" and num_replicas(model) == 1
    if alone and _is_of_keras(optimizer, "update_step"):
        optimizer.update_step = functools.partial(_tensorflow_step, optimizer)


def _is_of_keras(optimizer, name):
    """Return whether a method is Keras' Adam's: classes of users may have another."""
    return getattr(type(optimizer), name, None) is getattr(_class_of_adam(), name)


@functools.cache
def _class_of_adam():
    return type(keras.optimizers.Adam())


# === TensorFlow ===


def _tensorflow_step(optimizer, gradient, variable, learning_rate):
    """Update one weight; see `keras.optimizers.Adam.update_step`."""
    import tensorflow as tf

    is_dense = isinstance(gradient, tf.Tensor)
    if not is_dense or not gradient.dtype == variable.dtype == tf.float32:
        type(optimizer).update_step(optimizer, gradient, variable, learning_rate)
        return
    index = optimizer._get_variable_index(variable)
    num_steps = ops.cast(optimizer.iterations + 1, "float32")
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=optimizer._momentums[index].value.handle,
        v=optimizer._velocities[index].value.handle,
        beta1_power=optimizer.beta_1**num_steps,
        beta2_power=optimizer.beta_2**num_steps,
        lr=ops.cast(learning_rate, "float32"),
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        epsilon=optimizer.epsilon,
        grad=gradient,
    )


# === torch ===


def _torch_step(optimizer, gradients, variables, learning_rate):
    """Update all weights; see `_parallel_update_step` of Keras' optimizers on torch."""
    import torch

    weights = [variable.value for variable in variables]
    indices = [optimizer._get_variable_index(variable) for variable in variables]
    means = [optimizer._momentums[index].value for index in indices]
    squares = [optimizer._velocities[index].value for index in indices]
    if not _all_plain([*weights, *gradients, *means, *squares]):
        type(optimizer)._parallel_update_step(optimizer, gradients, variables, learning_rate)
        return
    # Tensors, so that a GPU is not waited for.
    num_steps = ops.cast(optimizer.iterations, "float32") + 1
    mean_share = 1 - optimizer.beta_1**num_steps
    square_share = 1 - optimizer.beta_2**num_steps
    late = torch.full((), LATE_STEP, dtype=torch.float32, device=weights[0].device)
    torch._fused_adam_(
        weights,
        gradients,
        means,
        squares,
        [],
        [late] * len(weights),
        lr=ops.cast(learning_rate, "float32") * torch.sqrt(square_share) / mean_share,
        beta1=optimizer.beta_1,
        beta2=optimizer.beta_2,
        weight_decay=0.0,
        eps=optimizer.epsilon,
        amsgrad=False,
        maximize=False,
    )
    for tensor in (*weights, *means, *squares):  # torch counts changes, but not those of this call
        torch.autograd.graph.increment_version(tensor)


def _all_plain(tensors):
    """Return whether all are float32 tensors of one device and no subclass, without gaps."""
    import torch

    return all(
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.is_contiguous()  # the call reads memory as it comes
        and tensor.dtype == torch.float32
        and tensor.device == tensors[0].device
        for tensor in tensors
    )
