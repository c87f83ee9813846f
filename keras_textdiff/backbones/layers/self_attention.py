"""Grouped-query self-attention with the options of the decoder families."""

import keras

from keras_textdiff.backbones.layers.attention import attend, build_projections
from keras_textdiff.backbones.layers.feature_normalization import FeatureNormalization
from keras_textdiff.backbones.layers.rotary_embedding import rotate
from keras_textdiff.utils.cache_columns import write_columns
from keras_textdiff.utils.registration import register


@register
class SelfAttention(keras.layers.Layer):
    """Self-attention; the sublayers are named as LoRA expects (query, key, value).

    Args:
        num_query_heads: int.
        num_key_value_heads: int that divides `num_query_heads` (Ainslie et al. 2023,
            arXiv 2305.13245).
        head_dim: int, size of one head.
        use_qkv_bias: bool, whether query, key and value have a bias.
        use_output_bias: bool, whether the output projection has a bias.
        query_key_normalization: None or the kind of `FeatureNormalization` on each head's
            query and key.
        query_key_epsilon: float, epsilon of that normalization.
        scale: float on the attention logits; None means `head_dim ** -0.5`.
        soft_cap: None or float; logits become `tanh(logits / soft_cap) * soft_cap`.
        use_sinks: bool, whether each head has a learned logit that attends to nothing.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(B, L, D)`.
        mask: bool tensor `(B, 1, L, K)`, True where a query may attend to a key.
        cosine, sine: rotary tensors `(1, L, 1, H)`, or None for no rotation.
        position_bias: float tensor `(1, num_query_heads, L, K)` added to the attention logits,
            or None.
        key_cache, value_cache: float tensors `(B, K, num_key_value_heads, H)` or None.
        cache_index: int, where in the cache this call's keys and values go.

    Returns:
        Float tensor `(B, L, D)`; with a cache, `(output, key_cache, value_cache)`.

    Example:
    ```python
    layer = SelfAttention(num_query_heads=4, num_key_value_heads=2, head_dim=16)
    y = layer(np.ones((2, 8, 64)), np.ones((2, 1, 8, 8), bool))
    ```
    """

    def __init__(
        self,
        num_query_heads,
        num_key_value_heads,
        head_dim,
        use_qkv_bias=False,
        use_output_bias=False,
        query_key_normalization=None,
        query_key_epsilon=1e-6,
        scale=None,
        soft_cap=None,
        use_sinks=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_query_heads = num_query_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.use_qkv_bias = use_qkv_bias
        self.use_output_bias = use_output_bias
        self.query_key_normalization = query_key_normalization
        self.query_key_epsilon = query_key_epsilon
        self.scale = scale
        self.soft_cap = soft_cap
        self.use_sinks = use_sinks

    def build(self, input_shape):
        """Create the projections for inputs `(B, L, D)`."""
        build_projections(self, input_shape)
        if self.query_key_normalization is not None:
            for name in ("query_norm", "key_norm"):
                layer = FeatureNormalization(
                    self.query_key_normalization,
                    self.query_key_epsilon,
                    name=name,
                    dtype=self.dtype_policy,
                )
                layer.build((None, None, None, self.head_dim))
                setattr(self, name, layer)
        if self.use_sinks:
            self.sinks = self.add_weight(
                shape=(self.num_query_heads,), initializer="zeros", name="sinks"
            )
        self.built = True

    def call(
        self,
        x,
        mask,
        cosine=None,
        sine=None,
        position_bias=None,
        key_cache=None,
        value_cache=None,
        cache_index=0,
    ):
        """Attend; with a cache, write this call's keys and values into it first."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        if self.query_key_normalization is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if cosine is not None:
            query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        if key_cache is not None:
            key = write_columns(key_cache, cache_index, key)
            value = write_columns(value_cache, cache_index, value)
        attended = attend(
            query,
            key,
            value,
            mask,
            scale=self.scale,
            bias=position_bias,
            soft_cap=self.soft_cap,
            sinks=self.sinks if self.use_sinks else None,
        )
        output = self.attention_output(attended)
        return output if key_cache is None else (output, key, value)

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
            "query_key_normalization": self.query_key_normalization,
            "query_key_epsilon": self.query_key_epsilon,
            "scale": self.scale,
            "soft_cap": self.soft_cap,
            "use_sinks": self.use_sinks,
        }
