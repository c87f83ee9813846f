"""Products with int8 weights, whose rows become int8, too, as Keras' quantized layers compute them.

Shapes: N rows, K inputs, M outputs.
"""

import functools

import keras
from keras import ops

from keras_textdiff.utils.dense import activate, dense
from keras_textdiff.utils.on_cpu import on_cpu

LARGEST = 127
EPSILON = keras.quantizers.AbsMaxQuantizer().epsilon
BLOCK_ROWS = 512
BLOCK_ELEMENTS = 2**21  # products at a time: 8 MiB in int32, which caches hold


def int8_dense(rows, kernel, kernel_scale, bias=None, activation=None):
    """Return `activation(rows @ (kernel / kernel_scale) + bias)`, of rows rounded to 255 levels.

    Each row has a scale of its own, so that it does not depend on the others. On CPU, torch takes
    oneDNN's int8 product, twice as fast as bfloat16 with AVX-512 VNNI, where Keras multiplies in
    float32. Elsewhere than on jax integers are multiplied as floats, which hold them exactly.
    Gradients are those of the float product with the same weights.

    Args:
        rows: float tensor `(N, K)`.
        kernel: int8 tensor `(K, M)`.
        kernel_scale: float tensor `(M,)`, by which the weights were multiplied.
        bias: float tensor `(M,)` or `(N, M)`, or None.
        activation: name in `utils.dense.ACTIVATIONS`, or None.

    Returns:
        Tensor `(N, M)` of the rows' dtype.
    """
    rows, kernel, kernel_scale = map(ops.convert_to_tensor, (rows, kernel, kernel_scale))
    bias = None if bias is None else ops.convert_to_tensor(bias)
    if _suits_onednn(rows, kernel, bias):
        return _onednn_int8_dense(rows, kernel, kernel_scale, bias, activation)
    output = _product(rows, kernel, kernel_scale)
    if bias is not None:
        output = output + ops.cast(bias, output.dtype)
    return activate(output, activation)


def _quantize(rows):
    """Return int8 rows `(N, K)` and what they were multiplied by, float32 `(N, 1)`."""
    rows = ops.cast(rows, "float32")
    scale = LARGEST / (ops.max(ops.abs(rows), axis=-1, keepdims=True) + EPSILON)
    return ops.cast(ops.round(rows * scale), "int8"), scale


@ops.custom_gradient
def _product(rows, kernel, kernel_scale):
    dtype = keras.backend.standardize_dtype(rows.dtype)

    def gradient(*arguments, upstream=None):
        if upstream is None:
            (upstream,) = arguments
        weights = ops.cast(kernel, dtype) / ops.cast(kernel_scale, dtype)
        return dense(upstream, ops.transpose(weights)), None, None

    quantized, scale = _quantize(rows)
    if keras.config.backend() == "jax":
        # As a batch: XLA on CPU takes four times as long for a transposed kernel otherwise.
        product = ops.matmul(quantized[None], kernel)[0]
    else:  # float16 ends at 65504
        exact = "bfloat16" if dtype == "bfloat16" else "float32"
        product = dense(ops.cast(quantized, exact), ops.cast(kernel, exact))
    output = ops.cast(product, "float32") / scale / ops.cast(kernel_scale, "float32")
    return ops.cast(output, dtype), gradient


# === torch on CPU ===


def _suits_onednn(rows, kernel, bias):
    if keras.config.backend() != "torch" or not (on_cpu(rows) and on_cpu(kernel)):
        return False
    import torch

    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (rows, bias)
    ):
        return False
    return _has_vnni() and not torch.compiler.is_compiling()


@functools.cache
def _has_vnni():
    """Return whether int8 products are exact and fast: without VNNI, oneDNN's may saturate."""
    import torch

    if not (torch.backends.mkldnn.is_available() and hasattr(torch, "_int_mm")):
        return False
    return bool(getattr(torch.cpu, "_is_vnni_supported", lambda: False)())


def _onednn_int8_dense(rows, kernel, kernel_scale, bias, activation):
    import torch

    num_rows, num_columns = rows.shape[0], kernel.shape[1]
    column_step = 1 / kernel_scale.float()
    output = rows.new_empty(num_rows, num_columns)
    for some in _slices(num_rows, BLOCK_ROWS):
        quantized, scale = _quantize(rows[some])
        row_step = 1 / scale
        for columns in _slices(num_columns, BLOCK_ELEMENTS // min(num_rows, BLOCK_ROWS)):
            block = torch._int_mm(quantized, kernel[:, columns]).float()
            block = block.mul_(row_step).mul_(column_step[columns])
            if bias is not None:
                block.add_(bias[some, columns] if bias.ndim == 2 else bias[columns])
            output[some, columns] = _activate_block(block, activation)
    return output


def _slices(length, size):
    return [slice(start, start + size) for start in range(0, length, size)]


def _activate_block(block, activation):
    """Activate, without torch's tanh, which takes as long as the product."""
    if activation != "gelu_tanh":
        return activate(block, activation)
    # x (1 + tanh(y)) / 2 is x sigmoid(2 y), with y = sqrt(2 / pi) (x + 0.044715 x^3).
    twice = 2 * (2 / 3.141592653589793) ** 0.5
    return (block * block).mul_(0.044715 * twice).add_(twice).mul_(block).sigmoid_().mul_(block)
