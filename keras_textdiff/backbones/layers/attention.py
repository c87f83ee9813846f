"""What self-attention and cross-attention share.

Shapes: B batch, Q queries, K keys, N query heads, G key-value heads, H head size, D hidden size.
"""

from keras import ops

from keras_textdiff.backbones.layers.dense import Projection
from keras_textdiff.utils.fused_attention import MASKED, fused_attention, needed_mask


def build_projections(layer, input_shape):
    """Create the four projections of an attention layer: query, key, value, attention_output.

    Args:
        layer: `keras.layers.Layer` with `num_query_heads`, `num_key_value_heads`, `head_dim`,
            `use_qkv_bias` and `use_output_bias`. LoRA finds the sublayers by their names.
        input_shape: shape `(B, L, D)` of what is projected.
    """
    query_shape = (None, None, layer.num_query_heads, layer.head_dim)
    key_shape = (None, None, layer.num_key_value_heads, layer.head_dim)
    for name, shape in (("query", query_shape), ("key", key_shape), ("value", key_shape)):
        projection = Projection(
            "bld,dnh->blnh",
            output_shape=shape[1:],
            bias_axes="nh" if layer.use_qkv_bias else None,
            name=name,
            dtype=layer.dtype_policy,
        )
        projection.build(input_shape)
        setattr(layer, name, projection)
    layer.attention_output = Projection(
        "blnh,nhd->bld",
        output_shape=(None, input_shape[-1]),
        bias_axes="d" if layer.use_output_bias else None,
        name="attention_output",
        dtype=layer.dtype_policy,
    )
    layer.attention_output.build(query_shape)


def attend(query, key, value, mask, *, scale, bias=None, soft_cap=None, sinks=None):
    """Return the values that each query attends to.

    Args:
        query: float tensor `(B, Q, N, H)`.
        key: float tensor `(B, K, G, H)`; G divides N.
        value: float tensor `(B, K, G, H)`.
        mask: bool tensor `(B, 1, Q, K)`, True where a query may attend to a key.
        scale: float on the attention logits; None means `H ** -0.5`.
        bias: float tensor `(1, N, Q, K)` added to the scaled logits, or None.
        soft_cap: None or float; logits become `tanh(logits / soft_cap) * soft_cap`.
        sinks: float tensor `(N,)`, a logit of each head that attends to nothing, or None.

    Returns:
        Float tensor `(B, Q, N, H)`.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    mask = needed_mask(mask)
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = ops.repeat(key, groups, axis=2), ops.repeat(value, groups, axis=2)
    if bias is None and soft_cap is None and sinks is None:
        attended = fused_attention(query, key, value, mask, scale)
        if attended is not None:
            return attended
    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))  # (B, N, Q, K)
    logits = ops.cast(logits, "float32") * scale
    if bias is not None:
        logits = logits + ops.cast(bias, "float32")
    if soft_cap is not None:
        logits = ops.tanh(logits / soft_cap) * soft_cap
    if mask is not None:
        logits = ops.where(mask, logits, MASKED)
    if sinks is not None:
        sinks = ops.cast(sinks, "float32")[None, :, None, None]
        sinks = ops.broadcast_to(sinks, (*ops.shape(logits)[:-1], 1))
        weights = ops.softmax(ops.concatenate([logits, sinks], axis=-1), axis=-1)[..., :-1]
    else:
        weights = ops.softmax(logits, axis=-1)
    attended = ops.matmul(ops.cast(weights, value.dtype), value)  # (B, N, Q, H)
    return ops.transpose(attended, (0, 2, 1, 3))
