"""Exact draws from a categorical distribution with one uniform number each.

Shapes: N positions, V vocabulary, G groups.
"""

import keras
from keras import ops

GROUP = 256


def most_likely(logits):
    """Return the index of the largest logit, int32 `(...)` of `(..., V)`; the first where equal.

    On jax two reductions replace argmax, which XLA runs on one CPU core without vector
    instructions.
    """
    if keras.config.backend() != "jax":
        return ops.cast(ops.argmax(logits, axis=-1), "int32")
    vocabulary_size = logits.shape[-1]
    is_largest = logits == ops.max(logits, axis=-1, keepdims=True)
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
    logits = ops.cast(logits, "float32")
    vocabulary_size = logits.shape[-1]
    groups = -(-vocabulary_size // GROUP)
    masses = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))  # (N, V)
    masses = ops.pad(masses, [[0, 0], [0, groups * GROUP - vocabulary_size]])
    masses = ops.reshape(masses, (-1, groups, GROUP))
    totals = ops.cumsum(ops.sum(masses, axis=-1), axis=-1)  # (N, G)
    threshold = uniforms[:, None] * totals[:, -1:]  # (N, 1)
    # The last group holds any threshold that rounding puts past the end.
    group = ops.sum(ops.cast(totals[:, :-1] <= threshold, "int32"), axis=-1)  # (N,)
    before = ops.where(
        group > 0,
        ops.take_along_axis(totals, ops.maximum(group - 1, 0)[:, None], axis=1)[:, 0],
        0.0,
    )
    chosen = ops.take_along_axis(masses, group[:, None, None], axis=1)[:, 0]  # (N, GROUP)
    inside = ops.cumsum(chosen, axis=-1)
    # Entries without mass are never drawn: step past them, but not past the last one with mass.
    position = ops.sum(ops.cast(inside <= threshold - before[:, None], "int32"), axis=-1)
    last = GROUP - 1 - ops.argmax(ops.cast(ops.flip(chosen, axis=-1) > 0, "int32"), axis=-1)
    position = ops.minimum(position, ops.cast(last, "int32"))
    return group * GROUP + position
