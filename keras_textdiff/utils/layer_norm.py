"""The one place that knows how torch normalizes a layer fastest."""

from keras import ops


def torch_layer_norm(x, scale, bias, epsilon):
    """Return a float tensor `(..., D)` of torch normalized over its last axis, by one kernel.

    Args:
        x: float tensor `(..., D)`; means and variances are computed in float32.
        scale: float32 tensor `(D,)`.
        bias: float32 tensor `(D,)`.
        epsilon: float added to the variance.

    Returns:
        Float tensor `(..., D)`: float32, or bfloat16 where `x` is so and lies on a CPU, whose
        kernel takes numbers of both kinds; it rounds once, at the end.
    """
    import torch

    if x.device.type != "cpu" or x.dtype != torch.bfloat16:
        x = ops.cast(x, "float32")
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), scale, bias, epsilon)
