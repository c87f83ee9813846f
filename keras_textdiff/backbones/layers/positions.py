"""Positions and masks of a sequence, as layers so that a functional graph can hold them."""

import keras
from keras import ops

from keras_textdiff.backbones.attention_masks import attention_mask
from keras_textdiff.utils.registration import register


@register
class Positions(keras.layers.Layer):
    """The positions of a sequence's columns, from the start of the row or of a segment on.

    Call arguments:
        token_ids: tensor `(B, L)`; only its length counts.
        start_index: int or int tensor, position of the first column.
        segment_ids: int tensor `(B, L)` of packed rows, 0 on padding; or None.

    Returns:
        Int32 tensor `(L,)`; for packed rows `(B, L)`, 0 on padding.

    Example:
    ```python
    Positions()(np.zeros((2, 4)), start_index=3)  # [3, 4, 5, 6]
    ```
    """

    def call(self, token_ids, start_index=0, segment_ids=None):
        """Return the positions of the columns."""
        length = ops.shape(token_ids)[1]
        positions = ops.arange(length, dtype="int32") + ops.cast(start_index, "int32")
        if segment_ids is None:
            return positions
        same = ops.equal(segment_ids[:, :, None], segment_ids[:, None, :])  # (B, L, L)
        inside = positions - ops.min(ops.where(same, positions, length), axis=-1)
        # Padding may be longer than learned positions reach.
        return ops.where(ops.equal(segment_ids, 0), 0, inside)


@register
class AttentionMask(keras.layers.Layer):
    """The mask that `attention_mask` builds, with its options held here.

    Args:
        attention: see `attention_masks.attention_mask`.
        block_length: see there.
        sliding_window: see there.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        query_positions: int tensor `(Q,)` or `(B, Q)`.
        key_positions: int tensor `(K,)` or `(B, K)`.
        padding_mask: bool tensor `(B, K)`, True where real.
        prompt_mask: bool tensor `(B, K)` or None, True on prefix positions.
        segment_ids: int tensor `(B, K)` of packed rows, or None.

    Returns:
        Bool tensor `(B, 1, Q, K)`.

    Example:
    ```python
    AttentionMask("causal")(np.arange(4), np.arange(4), np.ones((1, 4)))
    ```
    """

    def __init__(self, attention, block_length=None, sliding_window=None, **kwargs):
        super().__init__(**kwargs)
        self.attention = attention
        self.block_length = block_length
        self.sliding_window = sliding_window

    def call(
        self, query_positions, key_positions, padding_mask, prompt_mask=None, segment_ids=None
    ):
        """Return the mask."""
        return attention_mask(
            self.attention,
            query_positions,
            key_positions,
            padding_mask,
            prompt_mask=prompt_mask,
            block_length=self.block_length,
            sliding_window=self.sliding_window,
            segment_ids=segment_ids,
        )

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "attention": self.attention,
            "block_length": self.block_length,
            "sliding_window": self.sliding_window,
        }
