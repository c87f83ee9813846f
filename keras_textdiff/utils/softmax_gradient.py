"""The one place that knows how each backend makes and adds up gradients of a softmax fastest.

Shapes: C positions, V vocabulary, D hidden size, G groups.
"""

import math

import keras
from keras import ops

from keras_textdiff.utils.categorical import log_probability, log_total
from keras_textdiff.utils.dense import dense
from keras_textdiff.utils.one_pass import in_one_pass, suits_one_pass
from keras_textdiff.utils.row_blocks import block_rows


def cross_entropies(logits, targets):
    """Return the cross-entropies of single positions, float32 `(C,)`.

    Args:
        logits: float tensor `(C, V)`.
        targets: int32 tensor `(C,)`.
    """
    return -log_probability(logits, _log_total(logits, targets), targets)


def cross_entropies_and_gradient(logits, targets, weights):
    """Return cross-entropies, and the gradient of their weighted sum with respect to logits.

    Args:
        logits: float tensor `(C, V)`.
        targets: int32 tensor `(C,)`.
        weights: float32 tensor `(C,)`.

    Returns:
        Float32 tensor `(C,)`, and a tensor `(C, V)` in the logits' dtype.
    """
    log_totals = _log_total(logits, targets)
    losses = -log_probability(logits, log_totals, targets)
    if keras.config.backend() == "torch":
        return losses, _torch_gradient(logits, targets, weights)
    columns = log_totals[:, None], targets[:, None], weights[:, None]
    return losses, in_one_pass(_gradient, logits, *columns)


def _log_total(logits, targets):
    """Return `log_total` of logits that go through several passes at once.

    Where XLA compiles these together, a plain sum is part of them; blocks would be passes more.
    It is NaN where a target is outside the vocabulary, since XLA cannot raise an error; torch and
    TensorFlow itself do where they take the target's logit.
    """
    if keras.config.backend() == "torch":
        return log_total(logits)
    if suits_one_pass(logits):
        largest = ops.cast(ops.max(logits, axis=-1, keepdims=True), "float32")
        total = ops.sum(in_one_pass(_exponentials, logits, largest), axis=-1)
        log_totals = largest[:, 0] + ops.log(total)
    else:
        log_totals = ops.logsumexp(ops.cast(logits, "float32"), axis=-1)
    are_tokens = ops.logical_and(targets >= 0, targets < logits.shape[-1])
    return ops.where(are_tokens, log_totals, math.nan)


def _exponentials(logits, largest):
    return ops.exp(ops.cast(logits, "float32") - largest)


def _gradient(logits, log_totals, targets, weights):
    gradient = _exponentials(logits, log_totals) * weights
    hit = ops.arange(logits.shape[-1], dtype="int32")[None] == targets
    return ops.cast(ops.where(hit, gradient - weights, gradient), logits.dtype)


def _torch_gradient(logits, targets, weights):
    """On CPU, work on rows that caches hold: fresh memory and exp take most of the time there."""
    import torch

    gradient = torch.empty_like(logits)
    targets, weights = targets.long()[:, None], weights[:, None]
    for rows in _blocks(logits):
        part = torch.softmax(logits[rows], -1, dtype=torch.float32).mul_(weights[rows])
        part.scatter_add_(1, targets[rows], -weights[rows])
        gradient[rows] = part
    return gradient


def add_product(total, gradient, hidden):
    """Return `total + gradient.T @ hidden`; on torch, `total` itself holds it then.

    Args:
        total: float32 tensor `(V, D)`.
        gradient: float tensor `(C, V)`.
        hidden: float tensor `(C, D)` of the same dtype.
    """
    if keras.config.backend() != "torch":
        return total + ops.cast(dense(ops.transpose(gradient), hidden), "float32")
    for rows in _blocks(total):
        total[rows].add_(dense(gradient[:, rows].t(), hidden))
    return total


def scaled_sum(totals, scales, dtype):
    """Return `sum(totals * scales)` over G, in another dtype.

    Args:
        totals: float32 tensor `(G, V, D)`.
        scales: float32 tensor `(G, 1, 1)`.
        dtype: of the result `(V, D)`, as a tensor has it.
    """
    if keras.config.backend() != "torch" or totals.shape[0] > 1:
        return ops.cast(ops.sum(totals * scales, axis=0), dtype)
    import torch

    result = torch.empty_like(totals[0], dtype=dtype)
    for rows in _blocks(result):
        result[rows] = totals[0, rows] * scales[0]
    return result


def _blocks(matrix):
    """Return slices of a matrix's rows; on CPU, so short that caches hold them."""
    num_rows, size = matrix.shape[0], block_rows(matrix)
    return [slice(start, start + size) for start in range(0, num_rows, size)]
