"""On torch, Adam's step in one pass over the weights, by torch's own call.

Keras makes a dozen passes, three of which copy all weights: a quarter of a training step on CPU.
"""

import functools

import keras
from keras import ops

# torch corrects averages that start from zero by the number of steps. After so many there is
# nothing to correct: Keras' learning rate holds the correction already.
LATE_STEP = 1e9


def fuse_adam(optimizer):
    """Let a Keras `Adam` or `AdamW` on torch take its steps by torch's fused call.

    The formula stays Keras' own, and so does all around it: clipping, decay, accumulation,
    averages, the state that is saved. Other optimizers, other backends, `amsgrad`, and weights or
    gradients that are not plain float32 are left to Keras.

    Args:
        optimizer: `keras.Optimizer`, or one that wraps another as its `inner_optimizer`.
    """
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    if keras.config.backend() != "torch" or not isinstance(optimizer, keras.optimizers.Adam):
        return
    if getattr(type(optimizer), "_parallel_update_step", None) is _step_of_keras():
        optimizer._parallel_update_step = functools.partial(_update, optimizer)


@functools.cache
def _step_of_keras():
    return type(keras.optimizers.Adam())._parallel_update_step


def _update(optimizer, gradients, variables, learning_rate):
    """Take a step; see `_parallel_update_step` of Keras' optimizers on torch."""
    import torch

    weights = [variable.value for variable in variables]
    indices = [optimizer._get_variable_index(variable) for variable in variables]
    means = [optimizer._momentums[index].value for index in indices]
    squares = [optimizer._velocities[index].value for index in indices]
    if optimizer.amsgrad or not _all_plain([*weights, *gradients, *means, *squares]):
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
