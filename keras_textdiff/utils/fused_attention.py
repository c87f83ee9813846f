"""The one place that knows how each backend attends fastest.

Shapes: B batch, Q queries, K keys, N heads, H head size.
"""

import contextlib
import contextvars

import keras
from keras import ops

from keras_textdiff.utils.on_cpu import on_cpu

MASKED = -1e9  # finite, so that a row that may attend to nothing stays finite
BLOCK_ELEMENTS = 2**19  # attention logits alive at once: 1 MiB in bfloat16, which caches hold
HEAD_ELEMENTS = 2**22  # those of one head's queries, which only share the packing of its keys


_UNMASKED = contextvars.ContextVar("attention_unmasked", default=False)


@contextlib.contextmanager
def unmasked_attention(unmasked=True):
    """In this context all masks are True everywhere, and need not be looked at, if `unmasked`."""
    token = _UNMASKED.set(unmasked)
    try:
        yield
    finally:
        _UNMASKED.reset(token)


def needed_mask(mask):
    """Return a mask, or None where it is known to be True everywhere."""
    return None if _UNMASKED.get() else mask


def fused_attention(query, key, value, mask, scale):
    """Attend with the backend's own fused call, or one as fast.

    Args:
        query: float tensor `(B, Q, N, H)`.
        key: float tensor `(B, K, N, H)`.
        value: float tensor `(B, K, N, H)`.
        mask: bool tensor `(B, 1, Q, K)`, True where a query may attend to a key, or None.
        scale: float on the attention logits.

    Returns:
        Float tensor `(B, Q, N, H)`; or None where products and a softmax are faster: on jax on
        CPU, whose fused call is those with more copies.
    """
    backend = keras.config.backend()
    if backend == "jax" and on_cpu(query):
        return None
    if backend == "torch" and _suits_blocks(query, key, value):
        return _attend_in_blocks(query, key, value, mask, scale)
    # Keras takes flash attention where it can, unless its users have turned it off.
    flash_attention = False if keras.config.is_flash_attention_enabled() is False else None
    if backend == "torch" and query.device.type == "cuda":
        return _attend_on_gpu(query, key, value, mask, scale, flash_attention)
    return ops.dot_product_attention(
        query, key, value, mask=mask, scale=scale, flash_attention=flash_attention
    )


def _suits_blocks(query, key, value):
    """Return whether torch's fused call is slower than blocks: in bfloat16, without gradients."""
    import torch

    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    return not (torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)))


def _attend_in_blocks(query, key, value, mask, scale):
    import torch

    num_rows, num_queries, num_heads, _ = query.shape
    query, key, value = (
        x.transpose(1, 2).reshape(num_rows * num_heads, *x.shape[1::2])
        for x in (query * scale, key, value)
    )  # (B * N, Q or K, H)
    bias = _as_bias(mask, query.dtype)  # filling in takes four times as long as adding
    output = torch.empty_like(query)
    heads, rows = _block_size(num_heads, num_queries * key.shape[1])
    most_queries = max(1, HEAD_ELEMENTS // key.shape[1])
    for start in range(0, num_rows * num_heads, heads * rows):
        block = slice(start, start + heads * rows)
        row = start // num_heads
        for first in range(0, num_queries, most_queries):
            queries = slice(first, first + most_queries)
            logits = torch.bmm(query[block, queries], key[block].mT)
            if bias is not None:
                logits.view(-1, heads, *logits.shape[1:]).add_(bias[row : row + rows, :, queries])
            torch.bmm(torch.softmax(logits, dim=-1), value[block], out=output[block, queries])
    return output.view(num_rows, num_heads, num_queries, -1).transpose(1, 2)


def _block_size(num_heads, per_head):
    """Return how many heads of how many rows attend at a time: part of a row, or whole ones."""
    heads = max(1, min(num_heads, BLOCK_ELEMENTS // per_head))
    while num_heads % heads:
        heads -= 1
    return heads, max(1, BLOCK_ELEMENTS // (num_heads * per_head))


def _attend_on_gpu(query, key, value, mask, scale, flash_attention):
    """Attend where the projections lie, which Keras' call would copy first."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = contextlib.nullcontext()
    if flash_attention is False:
        kernels = sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
    with kernels:
        attended = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (query, key, value)),
            attn_mask=_as_bias(mask, query.dtype),
            scale=scale,
        )
    return attended.transpose(1, 2)


def _as_bias(mask, dtype):
    """Return what is added to attention logits for a mask, finite in their dtype; None for None."""
    import torch

    if mask is None:
        return None
    return torch.where(mask, 0.0, max(MASKED, torch.finfo(dtype).min / 2)).to(dtype)
