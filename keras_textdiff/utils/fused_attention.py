"""The one place that knows how each backend attends fastest.

Shapes: B batch, Q queries, K keys, N heads, H head size.
"""

import keras
from keras import ops

from keras_textdiff.utils.on_cpu import on_cpu

MASKED = -1e9  # finite, so that a row that may attend to nothing stays finite
BLOCK_ELEMENTS = 2**19  # attention logits alive at once: 1 MiB in bfloat16, which caches hold


def fused_attention(query, key, value, mask, scale):
    """Attend with the backend's own fused call, or one as fast.

    Args:
        query: float tensor `(B, Q, N, H)`.
        key: float tensor `(B, K, N, H)`.
        value: float tensor `(B, K, N, H)`.
        mask: bool tensor `(B, 1, Q, K)`, True where a query may attend to a key.
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
    bias = torch.where(mask, 0.0, MASKED).to(query.dtype)  # filling in takes four times as long
    output = torch.empty_like(query)
    heads, rows = _block_size(num_heads, num_queries * key.shape[1])
    for start in range(0, num_rows * num_heads, heads * rows):
        block = slice(start, start + heads * rows)
        row = start // num_heads
        logits = torch.bmm(query[block], key[block].mT)
        logits.view(-1, heads, *logits.shape[1:]).add_(bias[row : row + rows])
        torch.bmm(torch.softmax(logits, dim=-1), value[block], out=output[block])
    return output.view(num_rows, num_heads, num_queries, -1).transpose(1, 2)


def _block_size(num_heads, per_head):
    """Return how many heads of how many rows attend at a time: part of a row, or whole ones."""
    heads = max(1, min(num_heads, BLOCK_ELEMENTS // per_head))
    while num_heads % heads:
        heads -= 1
    return heads, max(1, BLOCK_ELEMENTS // (num_heads * per_head))
