"""Probabilities of categorical distributions, and exact draws with one uniform number each.

Shapes: N positions, V vocabulary, G groups.
"""

import keras
from keras import ops

from keras_textdiff.utils.on_cpu import on_cpu
from keras_textdiff.utils.one_pass import is_for_xla
from keras_textdiff.utils.row_blocks import by_row_blocks, widen_on_jax

GROUP = 256


def log_total(logits):
    """Return the logarithm of the sum of exponentials, float32 `(...)` of logits `(..., V)`.

    It has no gradient on torch.
    """
    return by_row_blocks(_log_total_of_rows, "float32", logits)


def _log_total_of_rows(rows):
    if keras.config.backend() == "torch":  # whose softmax is ten times as fast as its exp
        import torch

        return torch.amax(rows, -1) - torch.log(torch.amax(_softmax_in_place(rows), -1))
    rows = ops.cast(rows, "float32")
    largest = ops.max(rows, axis=-1)
    return largest + ops.log(_sum(ops.exp(rows - largest[:, None])))


def has_distribution(logits):
    """Return where logits `(..., V)` have no NaN, and a largest one that is finite, bool `(...)`.

    Elsewhere than on torch the largest does not tell: on CPU, XLA leaves out NaN.
    """
    if keras.config.backend() != "torch":
        return ops.isfinite(log_total(logits))
    import torch

    return torch.isfinite(torch.amax(logits, -1))


def log_probability(logits, log_totals, indices):
    """Return the log-probabilities of some indices, float32 `(...)`, not for gradients.

    Args:
        logits: float tensor `(..., V)`.
        log_totals: float32 tensor `(...)`, `log_total(logits)`.
        indices: int32 tensor `(...)`.
    """
    rows = widen_on_jax(ops.reshape(logits, (-1, logits.shape[-1])))
    chosen = ops.take_along_axis(rows, ops.reshape(indices, (-1, 1)), axis=-1)
    return ops.reshape(ops.cast(chosen, "float32"), ops.shape(indices)) - log_totals


def draw(logits, uniforms, temperature):
    """Draw from softmax(logits / temperature), or take the most likely index at temperature 0.

    Args:
        logits: float tensor `(..., V)`.
        uniforms: float32 tensor `(...)` inside (0, 1); not looked at at temperature 0.
        temperature: float.

    Returns:
        Int32 tensor `(...)`.
    """
    if temperature == 0:
        return most_likely(logits)

    def draw_rows(rows, uniforms):
        if keras.config.backend() == "torch":
            rows = rows.div_(temperature) if on_cpu(rows) else rows / temperature
            return _from_masses(_softmax_in_place(rows), uniforms)
        return categorical_from_uniform(ops.cast(rows, "float32") / temperature, uniforms)

    return by_row_blocks(draw_rows, "int32", logits, uniforms)


def _softmax_in_place(rows):
    """Return the softmax of float32 rows, on CPU where they were."""
    import torch

    return torch.softmax(rows, -1, out=rows if on_cpu(rows) else None)


def most_likely(logits):
    """Return the index of the largest logit, int32 `(...)` of `(..., V)`; the first where equal."""
    if keras.config.backend() == "torch":
        import torch

        return torch.max(ops.convert_to_tensor(logits), -1).indices.int()
    if keras.config.backend() == "tensorflow" and not is_for_xla():
        import tensorflow as tf

        return tf.argmax(logits, axis=-1, output_type="int32")
    return by_row_blocks(_most_likely_of_rows, "int32", logits)


def _most_likely_of_rows(rows):
    """Make two reductions: XLA on CPU runs argmax without vector instructions."""
    vocabulary_size = rows.shape[-1]
    is_largest = rows == ops.max(rows, axis=-1, keepdims=True)
    index = ops.where(is_largest, ops.arange(vocabulary_size, dtype="int32"), vocabulary_size)
    # NaN equals nothing: stay inside the vocabulary.
    return ops.minimum(ops.min(index, axis=-1), vocabulary_size - 1)


def categorical_from_uniform(logits, uniforms):
    """Draw one index per row by inverting the cumulative softmax.

    The sum runs over groups of 256 entries first and inside one group then, so that no
    cumulative sum over the vocabulary is made and rounding stays small.

    Args:
        logits: float tensor `(N, V)`; finite (divide by a temperature before).
        uniforms: float32 tensor `(N,)` inside (0, 1).

    Returns:
        Int32 tensor `(N,)`, distributed as softmax(logits).

    Example:
    ```python
    categorical_from_uniform(ops.log([[0.25, 0.75]]), ops.convert_to_tensor([0.3]))  # [1]
    ```
    """
    return _from_masses(_masses(ops.cast(logits, "float32")), uniforms)


def _from_masses(masses, uniforms):
    """Draw from what is proportional to probabilities, `(N, V)`."""
    vocabulary_size = masses.shape[-1]
    totals = ops.cumsum(_sum_groups(masses), axis=-1)  # (N, G)
    threshold = uniforms[:, None] * totals[:, -1:]  # (N, 1)
    # The last group holds any threshold that rounding puts past the end.
    group = ops.sum(ops.cast(totals[:, :-1] <= threshold, "int32"), axis=-1)  # (N,)
    before = ops.where(
        group > 0,
        ops.take_along_axis(totals, ops.maximum(group - 1, 0)[:, None], axis=1)[:, 0],
        0.0,
    )
    index = group[:, None] * GROUP + ops.arange(GROUP, dtype="int32")  # (N, GROUP)
    chosen = ops.take_along_axis(masses, ops.minimum(index, vocabulary_size - 1), axis=1)
    chosen = ops.where(index < vocabulary_size, chosen, 0.0)
    inside = ops.cumsum(chosen, axis=-1)
    # Entries without mass are never drawn: step past them, but not past the last one with mass.
    position = ops.sum(ops.cast(inside <= threshold - before[:, None], "int32"), axis=-1)
    last = GROUP - 1 - ops.argmax(ops.cast(ops.flip(chosen, axis=-1) > 0, "int32"), axis=-1)
    position = ops.minimum(position, ops.cast(last, "int32"))
    return group * GROUP + position


def _masses(logits):
    """Return what is proportional to probabilities: softmax where a backend has a kernel for it."""
    if keras.config.backend() == "torch":
        import torch

        return torch.softmax(logits, -1)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.nn.softmax(logits)
    return ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))


def _sum_groups(masses):
    """Return the sums of groups `(N, G)`; torch reads them where they are, others fill up first."""
    num_rows, vocabulary_size = masses.shape
    if keras.config.backend() == "torch":
        groups = vocabulary_size // GROUP
        whole, rest = masses[:, : groups * GROUP], masses[:, groups * GROUP :]
        sums = whole.reshape(num_rows, groups, GROUP).sum(-1)
        if rest.shape[1] == 0:
            return sums
        return ops.concatenate([sums, rest.sum(-1, keepdim=True)], axis=-1)
    masses = ops.pad(masses, [[0, 0], [0, -vocabulary_size % GROUP]])
    return _sum(ops.reshape(masses, (-1, masses.shape[-1] // GROUP, GROUP)))


def _sum(x):
    """Return the sums over the last axis.

    Where XLA sums what it has just computed on CPU, it does both without vector instructions, on
    one core; not so before a product.
    """
    if keras.config.backend() == "jax" and on_cpu(x):
        return ops.matmul(x, ops.ones((x.shape[-1],), x.dtype))
    return ops.sum(x, axis=-1)
