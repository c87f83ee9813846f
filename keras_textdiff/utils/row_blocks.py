"""The one place that knows how each backend works through many logits fastest.

Shapes: N rows, V vocabulary.
"""

import functools

import keras
from keras import ops

from keras_textdiff.utils.on_cpu import on_cpu

BLOCK_ELEMENTS = 2**21  # logits at a time: 8 MiB in float32, which caches hold


def by_row_blocks(function, dtype, logits, *arrays):
    """Return `function` of all rows; on CPU, block by block, so that caches hold what it makes.

    Args:
        function: callable from logits `(N, V)` and arrays `(N,)` to an array `(N,)`, each row's
            result its own. Logits come in float32, on tensorflow in their dtype; on torch
            without gradients, and on CPU in memory that the function may overwrite.
        dtype: string, of the result.
        logits: float tensor `(..., V)`.
        *arrays: tensors `(...)`.

    Returns:
        Tensor `(...)`.
    """
    shape = ops.shape(logits)[:-1]
    logits = widen_on_jax(ops.reshape(logits, (-1, logits.shape[-1])))
    arrays = [ops.reshape(array, (-1,)) for array in arrays]
    run = {"jax": _jax_blocks, "tensorflow": _tensorflow_blocks, "torch": _torch_blocks}
    size = _block_size(logits)
    if size is None and keras.config.backend() != "torch":
        return ops.reshape(function(logits, *arrays), shape)
    blocks = run[keras.config.backend()](function, dtype, size, [logits, *arrays])
    return ops.reshape(blocks, shape)


def block_rows(logits):
    """Return how many rows of logits `(N, V)` are worked on at a time; on CPU, few of them."""
    num_rows, vocabulary_size = logits.shape
    return max(1, BLOCK_ELEMENTS // vocabulary_size) if on_cpu(logits) else max(1, num_rows)


def _block_size(logits):
    """Return how many rows one block has, a divisor of theirs; None for all of them at once."""
    num_rows, vocabulary_size = logits.shape
    most = max(1, BLOCK_ELEMENTS // vocabulary_size)
    if num_rows is None or num_rows <= most:
        return None
    # Rows split over devices stay where they are.
    if keras.distribution.distribution() is not None or not on_cpu(logits):
        return None
    size = next(size for size in range(most, 0, -1) if num_rows % size == 0)
    return size if 4 * size >= most else None


def _torch_blocks(function, dtype, size, tensors):
    """Take all blocks through the same memory: glibc often has no use for what one leaves behind.

    Aligned memory needs a hole larger than itself, so each block could grow the heap.
    """
    import torch

    logits, *others = tensors
    if not on_cpu(logits):
        return function(logits.detach().float(), *others)
    _keep_freed_memory()
    logits, size = logits.detach(), size or logits.shape[0]
    memory = torch.empty((size, logits.shape[1]), dtype=torch.float32, device=logits.device)
    blocks = zip(*(torch.split(tensor, size) for tensor in (logits, *others)), strict=True)
    return torch.cat([function(memory.copy_(rows), *arrays) for rows, *arrays in blocks])


@functools.cache
def _keep_freed_memory():
    """Let glibc keep what blocks free, which the kernel would hand out again page by page.

    It keeps blocks up to the size of the largest that was ever freed, 32 MiB at most.
    """
    import torch

    torch.empty(31 * 2**20, dtype=torch.uint8)


def _tensorflow_blocks(function, dtype, size, tensors):
    import tensorflow as tf

    @tf.autograph.experimental.do_not_convert
    def run(block):
        return function(*block)

    blocks = tuple(tf.reshape(x, (-1, size, *x.shape[1:])) for x in tensors)
    result = tf.TensorSpec((size,), dtype)
    return tf.map_fn(run, blocks, fn_output_signature=result, parallel_iterations=2)


def _jax_blocks(function, dtype, size, tensors):
    import jax

    def run(block):
        return function(*block)

    return jax.lax.map(run, tuple(x.reshape(-1, size, *x.shape[1:]) for x in tensors))


def widen_on_jax(logits):
    """Return logits in float32 on jax, elsewhere as they are.

    XLA hands out the product in float32 that bfloat16 logits were rounded from, on CPU without
    rounding it. All that reads logits has to ask for float32: one that reads rounded logits beside
    one that does not sees probabilities above 1.
    """
    return ops.cast(logits, "float32") if keras.config.backend() == "jax" else logits
