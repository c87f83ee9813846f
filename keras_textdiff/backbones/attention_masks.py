"""Who may attend to whom, as boolean masks (True: may attend).

Shapes: B batch, Q query positions, K key positions.
"""

from keras import ops

ATTENTION_MODES = ("bidirectional", "causal", "prefix", "block")


def attention_mask(
    attention,
    query_positions,
    key_positions,
    padding_mask,
    *,
    prompt_mask=None,
    block_length=None,
    sliding_window=None,
    segment_ids=None,
):
    """Build the mask of one attention call.

    Args:
        attention: "bidirectional", "causal", "prefix" (every position sees the whole prompt,
            target positions are causal among themselves) or "block" (causal across blocks of
            `block_length`, bidirectional inside one).
        query_positions: int tensor `(Q,)` or `(B, Q)`, positions of the queries.
        key_positions: int tensor `(K,)` or `(B, K)`, positions of the keys.
        padding_mask: bool tensor `(B, K)`, True where a key is real.
        prompt_mask: bool tensor `(B, K)`, True on prefix positions; "prefix" needs it.
        block_length: int; "block" needs it.
        sliding_window: int or None; a query sees keys less than this many positions away.
        segment_ids: int tensor `(B, K)` or None; in packed rows, where queries are keys, a
            position sees those of its own segment alone.

    Returns:
        Bool tensor `(B, 1, Q, K)`.
    """
    query, key = query_positions[..., :, None], key_positions[..., None, :]
    if attention == "bidirectional":
        allowed = ops.ones_like(query, dtype="bool") & ops.ones_like(key, dtype="bool")
    elif attention == "block":
        allowed = key // block_length <= query // block_length
    else:
        allowed = key <= query
    if len(allowed.shape) == 2:
        allowed = allowed[None]  # (1, Q, K)
    if attention == "prefix":
        allowed = ops.logical_or(allowed, ops.cast(prompt_mask, "bool")[:, None, :])
    if sliding_window is not None:
        distance = ops.abs(query - key)
        allowed = ops.logical_and(allowed, distance < sliding_window)
    if segment_ids is not None:
        same = ops.equal(segment_ids[:, :, None], segment_ids[:, None, :])
        allowed = ops.logical_and(allowed, same)
    allowed = ops.logical_and(allowed, ops.cast(padding_mask, "bool")[:, None, :])
    return allowed[:, None]


def segment_starts(segment_ids):
    """Return bool `(B, L)`, True on the first position of each segment of int `(B, L)`."""
    starts = ops.not_equal(segment_ids[:, 1:], segment_ids[:, :-1])
    return ops.concatenate([ops.ones_like(starts[:, :1]), starts], axis=1)
