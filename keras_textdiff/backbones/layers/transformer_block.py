"""One pre-normalized Transformer block."""

import keras
from keras import ops

from keras_textdiff.backbones.layers.feature_normalization import FeatureNormalization
from keras_textdiff.utils.registration import register


@register
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a feed-forward network, each behind a norm and added to its input.

    Args:
        self_attention: `SelfAttention` layer.
        feed_forward: `FeedForward` or `MixtureOfExperts` layer.
        normalization: kind of `FeatureNormalization`.
        normalization_epsilon: float.
        use_post_normalization: bool, whether each sublayer's output is normalized too.
        dropout: float, share of each sublayer's output dropped in training.
        gradient_checkpointing: bool, whether training recomputes the block in the backward
            pass instead of keeping its activations.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(B, L, D)`.
        mask, cosine, sine, key_cache, value_cache, cache_index: see `SelfAttention`.

    Returns:
        Float tensor `(B, L, D)`; with a cache, `(output, key_cache, value_cache)`.

    Example:
    ```python
    block = TransformerBlock(SelfAttention(4, 2, 16), FeedForward(256))
    y = block(np.ones((2, 8, 64)), np.ones((2, 1, 8, 8), bool))
    ```
    """

    def __init__(
        self,
        self_attention,
        feed_forward,
        normalization="rms",
        normalization_epsilon=1e-6,
        use_post_normalization=False,
        dropout=0.0,
        gradient_checkpointing=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.self_attention = self_attention
        self.feed_forward = feed_forward
        self.normalization = normalization
        self.normalization_epsilon = normalization_epsilon
        self.use_post_normalization = use_post_normalization
        self.dropout = dropout
        self.gradient_checkpointing = gradient_checkpointing
        names = ["attention_norm", "feed_forward_norm"]
        if use_post_normalization:
            names += ["post_attention_norm", "post_feed_forward_norm"]
        for name in names:
            layer = FeatureNormalization(
                normalization, normalization_epsilon, name=name, dtype=self.dtype_policy
            )
            setattr(self, name, layer)
        self._norm_names = tuple(names)
        self.seed_generator = keras.random.SeedGenerator() if dropout else None

    def build(self, input_shape):
        """Build the sublayers for inputs `(B, L, D)`."""
        sublayers = [getattr(self, name) for name in self._norm_names]
        for layer in (*sublayers, self.self_attention, self.feed_forward):
            layer.build(input_shape)
        self.built = True

    def call(
        self,
        x,
        mask,
        cosine=None,
        sine=None,
        key_cache=None,
        value_cache=None,
        cache_index=0,
        training=None,
    ):
        """Run the block."""
        if key_cache is not None:
            h = self.attention_norm(x)
            h, key_cache, value_cache = self.self_attention(
                h,
                mask,
                cosine=cosine,
                sine=sine,
                key_cache=key_cache,
                value_cache=value_cache,
                cache_index=cache_index,
            )
            return self._feed_forward(self._add_attention(x, h)), key_cache, value_cache
        # Dropout is drawn out here: a seed must not advance inside a recomputed function.
        keep = self._dropout_factors(x) if training and self.dropout else (None, None)

        def forward(x):
            return self._forward(x, mask, cosine, sine, *keep)

        if training and self.gradient_checkpointing:
            forward = keras.remat(forward)  # takes differentiable tensors only
        return forward(x)

    def _forward(self, x, mask, cosine, sine, keep_attention, keep_feed_forward):
        h = self.self_attention(self.attention_norm(x), mask, cosine=cosine, sine=sine)
        return self._feed_forward(self._add_attention(x, h, keep_attention), keep_feed_forward)

    def _add_attention(self, x, h, keep=None):
        if self.use_post_normalization:
            h = self.post_attention_norm(h)
        return x + (h if keep is None else h * keep)

    def _feed_forward(self, x, keep=None):
        h = self.feed_forward(self.feed_forward_norm(x))
        if self.use_post_normalization:
            h = self.post_feed_forward_norm(h)
        return x + (h if keep is None else h * keep)

    def _dropout_factors(self, x):
        """Return two tensors of 0 and 1 / (1 - dropout), one per sublayer."""
        factors = []
        for _ in range(2):
            drawn = keras.random.uniform(ops.shape(x), seed=self.seed_generator)
            kept = ops.cast(drawn >= self.dropout, x.dtype)
            factors.append(kept / (1.0 - self.dropout))
        return factors

    def compute_output_shape(self, x_shape, *args, **kwargs):
        """Return the shape of `x`."""
        return x_shape

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "self_attention": _serialize_unbuilt(self.self_attention),
            "feed_forward": _serialize_unbuilt(self.feed_forward),
            "normalization": self.normalization,
            "normalization_epsilon": self.normalization_epsilon,
            "use_post_normalization": self.use_post_normalization,
            "dropout": self.dropout,
            "gradient_checkpointing": self.gradient_checkpointing,
        }

    @classmethod
    def from_config(cls, config):
        """Rebuild the block with its sublayers."""
        config = dict(config)
        for name in ("self_attention", "feed_forward"):
            config[name] = keras.layers.deserialize(config[name])
        return cls(**config)


def _serialize_unbuilt(layer):
    """Return a sublayer's config without its build config: the block builds it."""
    config = keras.layers.serialize(layer)
    config.pop("build_config", None)
    return config
