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
        Float tensor `(..., D)`: float32, or in the dtype of `x` where a kernel takes that: on CPU
        bfloat16, with a float32 scale; on a GPU with a scale of that dtype, which a layer's scale
        was cast from. Both compute in float32 and round once, at the end.
    """
    import torch

    if x.device.type == "cuda" and x.element_size() == 2:
        scale, bias = scale.to(x.dtype), bias.to(x.dtype)
    elif x.device.type != "cpu" or x.dtype != torch.bfloat16:
        x = ops.cast(x, "float32")
    return torch.nn.functional.layer_norm(x, (x.shape[-1],), scale, bias, epsilon)
