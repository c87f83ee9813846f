"""Learned biases on attention logits by distance, as in T5."""

import math

import keras
import numpy as np
from keras import ops

from keras_textdiff.utils.checks import check_integer
from keras_textdiff.utils.registration import register


def check_position_buckets(num_buckets, maximum_distance):
    """Raise a ValueError where distances cannot be sorted into so many buckets."""
    check_integer("num_position_buckets", num_buckets, minimum=4)
    if num_buckets % 4:
        raise ValueError(
            "`num_position_buckets` must be a multiple of 4: two directions, each with exact and "
            f"logarithmic distances. Got {num_buckets}."
        )
    check_integer("maximum_position_distance", maximum_distance, minimum=num_buckets)


def distance_buckets(num_buckets, maximum_distance):
    """Return the bucket of each distance from 0 to `maximum_distance`.

    The first half of the buckets holds one distance each, the second half ranges that grow
    logarithmically up to `maximum_distance`; what is further away shares the last bucket.

    Args:
        num_buckets: int.
        maximum_distance: int.

    Returns:
        Int32 array `(maximum_distance + 1,)`.

    Reference: Raffel et al. 2020, arXiv 1910.10683, section 2.1; computed in float32, whose
    rounding decides at the edges of a bucket.
    """
    exact = num_buckets // 2
    distances = np.arange(maximum_distance + 1)
    ratios = np.maximum(distances, exact).astype("float32") / np.float32(exact)
    share = np.log(ratios) / np.float32(math.log(maximum_distance / exact))
    far = exact + (share * np.float32(num_buckets - exact)).astype("int32")
    return np.where(distances < exact, distances, np.minimum(far, num_buckets - 1)).astype("int32")


@register
class RelativePositionBias(keras.layers.Layer):
    """One learned number per head and bucket of distances, shared by all layers of a stack.

    T5's encoders see both sides and split their buckets between keys behind and keys ahead.
    Its decoders see keys behind alone and give them all buckets. Those weights have to serve a
    decoder that sees both sides too, and must not depend on whether it does: there, a key ahead
    gets the bias of a key as far behind, plus a number of its own bucket from "ahead". "ahead" is
    zero at first and where attention is causal, so the causal model is T5's; without it, a
    decoder with both sides could not tell left from right.

    Args:
        num_heads: int N.
        num_buckets: int, a multiple of 4.
        maximum_distance: int, distance from which on all share one bucket.
        split: bool, True for T5's encoder, False for its decoder.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        query_positions: int tensor `(Q,)`, or `(B, Q)` for positions that differ between rows.
        key_positions: int tensor `(K,)` or `(B, K)`.

    Returns:
        Float tensor `(1, N, Q, K)` or `(B, N, Q, K)`, to be added to the attention logits.

    Example:
    ```python
    bias = RelativePositionBias(num_heads=4)(np.arange(8), np.arange(8))
    ```

    Reference: Raffel et al. 2020, arXiv 1910.10683, section 2.1.
    """

    def __init__(self, num_heads, num_buckets=32, maximum_distance=128, split=False, **kwargs):
        super().__init__(**kwargs)
        check_position_buckets(num_buckets, maximum_distance)
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.maximum_distance = maximum_distance
        self.split = bool(split)

    def build(self, *input_shapes):
        """Create the biases."""
        shape = (self.num_buckets, self.num_heads)
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        self.bias = self.add_weight(shape=shape, initializer=initializer, name="bias")
        if not self.split:
            self.ahead = self.add_weight(shape=shape, initializer="zeros", name="ahead")
        self.built = True

    def call(self, query_positions, key_positions):
        """Return the bias of each pair of positions."""
        farthest = self.maximum_distance
        offsets = np.arange(-farthest, farthest + 1)  # of a key from its query, clipped
        ahead = offsets > 0
        buckets = self.num_buckets // 2 if self.split else self.num_buckets
        rows = distance_buckets(buckets, farthest)[np.abs(offsets)]
        if self.split:
            biases = ops.take(self.bias, np.where(ahead, rows + buckets, rows), axis=0)
        else:
            biases = ops.take(self.bias, rows, axis=0)
            also = ops.take(self.ahead, rows, axis=0)
            biases = ops.where(ahead[:, None], biases + also, biases)
        offset = key_positions[..., None, :] - query_positions[..., :, None]
        offset = ops.clip(ops.cast(offset, "int32"), -farthest, farthest) + farthest
        taken = ops.take(ops.transpose(biases), offset, axis=1)  # (N, Q, K) or (N, B, Q, K)
        return taken[None] if len(offset.shape) == 2 else ops.transpose(taken, (1, 0, 2, 3))

    def compute_output_shape(self, query_positions_shape, key_positions_shape):
        """Return `(1, N, Q, K)`, or `(B, N, Q, K)` for packed rows."""
        batch = (1, *query_positions_shape[:-1])[-1]
        return (batch, self.num_heads, query_positions_shape[-1], key_positions_shape[-1])

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "maximum_distance": self.maximum_distance,
            "split": self.split,
        }
