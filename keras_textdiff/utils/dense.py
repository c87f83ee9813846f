"""The one place that knows how each backend multiplies two matrices fastest.

Shapes: N rows, K inputs, M outputs.
"""

import functools

import keras
from keras import ops

from keras_textdiff.utils.one_pass import in_one_pass, suits_one_pass

SMALLEST_ONEDNN_PRODUCT = 2**20  # multiplications; below, calling oneDNN takes longer than they do
ACTIVATIONS = {
    "silu": ops.silu,
    "gelu": lambda x: ops.gelu(x, approximate=False),
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "relu": ops.relu,
}


def dense(rows, kernel, bias=None, activation=None, training=False):
    """Return `activation(rows @ kernel + bias)`.

    On CPU, torch computes float32 products with MKL, which leaves half of an AMD core idle, and
    activations in passes of their own; oneDNN does both at once. On a GPU, cuBLAS adds the bias,
    and takes several times as long for columns that are not a multiple of 16 bytes, as those of
    GPT-2's 50257 tokens. TensorFlow puts bias and activation into the product where they are
    written as its graph optimizer knows them; in training, where the gradient needs what is before
    the activation, that is one pass, rounded once, see `utils.one_pass`.

    Args:
        rows: float tensor `(N, K)`.
        kernel: float tensor `(K, M)`.
        bias: float tensor `(M,)`, or None.
        activation: name in `ACTIVATIONS`, or None.
        training: bool or None, whether gradients are to come.

    Returns:
        Float tensor `(N, M)`.
    """
    rows, kernel = ops.convert_to_tensor(rows), ops.convert_to_tensor(kernel)
    bias = None if bias is None else ops.convert_to_tensor(bias)
    if keras.config.backend() == "torch":
        if _suits_onednn(rows, kernel):
            return _onednn_dense(rows, kernel, bias, activation)
        if _suits_cublas(rows, kernel, bias):
            return activate(_cublas_dense(rows, kernel, bias), activation)
    output = ops.matmul(rows, kernel)
    if bias is not None:
        output = _add_bias(output, bias)
    if training and activation is not None and suits_one_pass(output):
        return in_one_pass(_ROUNDED_ONCE[activation], output)
    return activate(output, activation)


def activate(x, activation):
    """Return `x` behind an activation, a name in `ACTIVATIONS`; None leaves it as it is."""
    return x if activation is None else ACTIVATIONS[activation](x)


def _rounded_once(activation, x):
    """Compute in float32: XLA on CPU goes there and back for each operation in bfloat16."""
    precise = keras.backend.result_type(x.dtype, "float32")
    return ops.cast(activation(ops.cast(x, precise)), x.dtype)


_ROUNDED_ONCE = {name: functools.partial(_rounded_once, x) for name, x in ACTIVATIONS.items()}


def _add_bias(output, bias):
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.bias_add(output, bias)
    return output + bias


# === torch on CPU ===


def _suits_onednn(rows, kernel):
    import torch

    return (
        rows.device.type == kernel.device.type == "cpu"
        and rows.dtype == kernel.dtype
        and rows.shape[0] > 1
        and rows.numel() * kernel.shape[1] >= SMALLEST_ONEDNN_PRODUCT
        and _has_onednn(rows.dtype)
        and not torch.compiler.is_compiling()
    )


@functools.cache
def _has_onednn(dtype):
    """Return whether this build of torch, on this processor, has oneDNN's products."""
    import torch

    if not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


# How torch's operator calls an activation, and the algorithm of it.
_ONEDNN_ACTIVATIONS = {
    None: ("none", ""),
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}


def _onednn_dense(rows, kernel, bias, activation):
    import torch

    tensors = [rows, kernel] if bias is None else [rows, kernel, bias]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        output = _differentiable_dense().apply(rows, kernel, bias)
        return activate(output, activation)
    return _onednn_product(rows, kernel, bias, activation)


def _onednn_product(left, right, bias=None, activation=None):
    import torch

    name, algorithm = _ONEDNN_ACTIVATIONS[activation]
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), bias, name, [], algorithm)


@functools.cache
def _differentiable_dense():
    """Return an autograd function of rows, kernel and bias: the operator has no gradient."""
    import torch

    class Dense(torch.autograd.Function):
        @staticmethod
        def forward(context, rows, kernel, bias):
            context.save_for_backward(rows, kernel)
            return _onednn_product(rows, kernel, bias)

        @staticmethod
        def backward(context, gradient):
            rows, kernel = context.saved_tensors
            of_rows, of_kernel, of_bias = context.needs_input_grad
            return (
                _onednn_product(gradient, kernel.t()) if of_rows else None,
                _onednn_product(rows.t(), gradient) if of_kernel else None,
                gradient.sum(0) if of_bias else None,
            )

    return Dense


# === torch on a GPU ===

CUBLAS_COLUMNS = 8  # 16 bytes of bfloat16


def _suits_cublas(rows, kernel, bias):
    tensors = [rows, kernel] if bias is None else [rows, kernel, bias]
    return all(x.device.type == "cuda" and x.dtype == rows.dtype for x in tensors)


def _cublas_dense(rows, kernel, bias):
    import torch

    columns = kernel.shape[1]
    if rows.element_size() == 2 and columns % CUBLAS_COLUMNS:
        more = -columns % CUBLAS_COLUMNS
        # Where a tied embedding lies, columns are rows: zeros go below them.
        kernel = torch.nn.functional.pad(kernel.t(), (0, 0, 0, more)).t()
        bias = None if bias is None else torch.nn.functional.pad(bias, (0, more))
    product = torch.mm(rows, kernel) if bias is None else torch.addmm(bias, rows, kernel)
    return product[:, :columns]
