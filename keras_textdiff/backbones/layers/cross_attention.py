"""Attention from a decoder to what an encoder has read."""

import keras

from keras_textdiff.backbones.layers.attention import attend, build_projections
from keras_textdiff.utils.registration import register


@register
class CrossAttention(keras.layers.Layer):
    """Grouped-query attention whose keys and values come from an encoder.

    Args:
        num_query_heads: int.
        num_key_value_heads: int that divides `num_query_heads`.
        head_dim: int, size of one head.
        use_qkv_bias: bool, whether query, key and value have a bias.
        use_output_bias: bool, whether the output projection has a bias.
        scale: float on the attention logits; None means `head_dim ** -0.5`.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(B, L, D)`.
        encoded: float tensor `(B, P, D)`, hidden states of the encoder; or what `project` made
            of them, so that several calls share it.
        mask: bool tensor `(B, 1, L, P)`, True where a query may attend to a key.

    Returns:
        Float tensor `(B, L, D)`.

    Example:
    ```python
    layer = CrossAttention(num_query_heads=4, num_key_value_heads=2, head_dim=16)
    y = layer(np.ones((2, 8, 64)), np.ones((2, 5, 64)), np.ones((2, 1, 8, 5), bool))
    ```
    """

    def __init__(
        self,
        num_query_heads,
        num_key_value_heads,
        head_dim,
        use_qkv_bias=False,
        use_output_bias=False,
        scale=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.use_qkv_bias = use_qkv_bias
        self.use_output_bias = use_output_bias
        self.scale = scale

    def build(self, input_shape):
        """Create the projections for inputs `(B, L, D)`."""
        build_projections(self, input_shape)
        self.built = True

    def project(self, encoded):
        """Return the keys and values `(B, P, num_key_value_heads, H)` of hidden states."""
        return self.key(encoded), self.value(encoded)

    def call(self, x, encoded, mask):
        """Attend to what the encoder has read."""
        key, value = encoded if isinstance(encoded, tuple) else self.project(encoded)
        return self.attention_output(attend(self.query(x), key, value, mask, scale=self.scale))

    def compute_output_shape(self, x_shape, *args, **kwargs):
        """Return the shape of `x`."""
        return x_shape

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_query_heads": self.num_query_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "use_qkv_bias": self.use_qkv_bias,
            "use_output_bias": self.use_output_bias,
            "scale": self.scale,
        }
