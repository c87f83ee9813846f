"""The vocabulary in which a family says where each of its weights goes.

Shapes: D hidden size, N heads, H head size, E experts, F inner size.
"""

from collections.abc import Callable
from typing import NamedTuple

from keras import ops


class Weight(NamedTuple):
    """One weight of our backbone and the variables that it is made of.

    Args:
        destination: str, path of the weight in our backbone.
        sources: tuple of variables of the source; empty for a weight that it has nothing for.
        transform: callable from the sources' tensors to the weight, or None for one that is
            copied as it is.
    """

    destination: str
    sources: tuple
    transform: Callable | None = None


class Unused(NamedTuple):
    """A variable of the source that carries nothing learned, and why it is left out."""

    source: object
    reason: str


def dense(destination, layer, kernel=None, bias=None):
    """Map a dense layer; `kernel` and `bias` are transforms or None."""
    weights = [Weight(f"{destination}/kernel", (layer.kernel,), kernel)]
    if layer.bias is not None:
        weights.append(Weight(f"{destination}/bias", (layer.bias,), bias))
    return weights


def scale(destination, layer):
    """Map a root mean square normalization."""
    return [Weight(f"{destination}/scale", (layer.scale,))]


def embeddings(backbone):
    """Map the token embedding and, where it is untied, the output projection."""
    layer = backbone.token_embedding
    weights = [Weight("token_embedding/embeddings", (layer.embeddings,))]
    if not layer.tie_weights:
        weights.append(Weight("token_embedding/reverse_embeddings", (layer.reverse_embeddings,)))
    return weights


def attention(block, *, query, key, value, output, kernel=None, bias=None):
    """Map the four projections of a block; `kernel` and `bias` transform query, key, value."""
    destination = f"{block}/self_attention"
    return [
        *dense(f"{destination}/query", query, kernel, bias),
        *dense(f"{destination}/key", key, kernel, bias),
        *dense(f"{destination}/value", value, kernel, bias),
        *dense(f"{destination}/attention_output", output),
    ]


def gated_feed_forward(block, *, gate, up, down):
    """Map the three projections of a gated feed-forward network."""
    return [
        *dense(f"{block}/feed_forward/gate", gate),
        *dense(f"{block}/feed_forward/up", up),
        *dense(f"{block}/feed_forward/down", down),
    ]


def blocks(backbone):
    """Yield `(path of the block in TransformerBackbone, layer of the source)`."""
    for index, layer in enumerate(backbone.transformer_layers):
        yield f"transformer_layer_{index}", layer


def concatenate(gate, up):
    """Join gate and up projections `(..., F)` to `(..., 2F)`."""
    return ops.concatenate([gate, up], axis=-1)


def deinterleave(gate_up):
    """Reorder `(..., 2F)` from gate, up, gate, up, ... to all gates, then all ups."""
    return ops.concatenate([gate_up[..., ::2], gate_up[..., 1::2]], axis=-1)


def heads_behind(kernel):
    """Reorder `(N, D, H)` to `(D, N, H)`."""
    return ops.transpose(kernel, (1, 0, 2))


def split_heads(head_dim):
    """Return a transform from `(..., N * H)` to `(..., N, H)`."""

    def transform(weight):
        return ops.reshape(weight, (*weight.shape[:-1], -1, head_dim))

    return transform
