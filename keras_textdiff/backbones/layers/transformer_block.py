"""One pre-normalized Transformer block."""

import keras
from keras import ops, tree

from keras_textdiff.backbones.layers.feature_normalization import FeatureNormalization
from keras_textdiff.utils.random import SeedGenerator
from keras_textdiff.utils.registration import register


@register
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a feed-forward network, each behind a norm and added to its input.

    A decoder's block attends to an encoder in between.

    Args:
        self_attention: `SelfAttention` layer.
        feed_forward: `FeedForward` or `MixtureOfExperts` layer.
        normalization: kind of `FeatureNormalization`.
        normalization_epsilon: float.
        use_post_normalization: bool, whether each sublayer's output is normalized too.
        dropout: float, share of each sublayer's output dropped in training.
        gradient_checkpointing: bool, whether training recomputes the block in the backward
            pass instead of keeping its activations.
        cross_attention: `CrossAttention` layer, or None for a block without an encoder.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        x: float tensor `(B, L, D)`.
        mask, cosine, sine, position_bias, key_cache, value_cache, cache_index: see
            `SelfAttention`.
        encoded, encoded_mask: see `CrossAttention`, there called `encoded` and `mask`.

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
        cross_attention=None,
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
        self.cross_attention = cross_attention
        self._sublayer_names = ("attention", "feed_forward")
        if cross_attention is not None:
            self._sublayer_names = ("attention", "cross_attention", "feed_forward")
        names = [f"{name}_norm" for name in self._sublayer_names]
        if use_post_normalization:
            names += [f"post_{name}_norm" for name in self._sublayer_names]
        for name in names:
            layer = FeatureNormalization(
                normalization, normalization_epsilon, name=name, dtype=self.dtype_policy
            )
            setattr(self, name, layer)
        self._norm_names = tuple(names)
        self.seed_generator = SeedGenerator() if dropout else None

    def build(self, input_shape):
        """Build the sublayers for inputs `(B, L, D)`."""
        sublayers = [getattr(self, name) for name in self._norm_names]
        sublayers += [self.self_attention, self.feed_forward]
        if self.cross_attention is not None:
            sublayers.append(self.cross_attention)
        for layer in sublayers:
            layer.build(input_shape)
        self.built = True

    def call(
        self,
        x,
        mask,
        cosine=None,
        sine=None,
        position_bias=None,
        encoded=None,
        encoded_mask=None,
        key_cache=None,
        value_cache=None,
        cache_index=0,
        training=None,
    ):
        """Run the block."""
        if key_cache is not None:
            h, key_cache, value_cache = self.self_attention(
                self.attention_norm(x),
                mask,
                cosine=cosine,
                sine=sine,
                position_bias=position_bias,
                key_cache=key_cache,
                value_cache=value_cache,
                cache_index=cache_index,
            )
            x = self._add("attention", x, h)
            return self._run_others(x, encoded, encoded_mask), key_cache, value_cache
        # Dropout is drawn out here: a seed must not advance inside a recomputed function.
        keep = self._dropout_factors(x) if training and self.dropout else {}

        def forward(x, position_bias, encoded):
            h = self.self_attention(
                self.attention_norm(x),
                mask,
                cosine=cosine,
                sine=sine,
                position_bias=position_bias,
            )
            x = self._add("attention", x, h, keep)
            # A recomputed call does not know `training`: it happens outside of the layer's.
            return self._run_others(x, encoded, encoded_mask, keep, training)

        if training and self.gradient_checkpointing:
            return _recompute(forward, x, position_bias, encoded)
        return forward(x, position_bias, encoded)

    def _run_others(self, x, encoded, encoded_mask, keep=None, training=False):
        """Run the sublayers behind self-attention."""
        if self.cross_attention is not None:
            h = self.cross_attention(self.cross_attention_norm(x), encoded, encoded_mask)
            x = self._add("cross_attention", x, h, keep)
        h = self.feed_forward(self.feed_forward_norm(x), training=training)
        return self._add("feed_forward", x, h, keep)

    def _add(self, name, x, h, keep=None):
        """Add a sublayer's output to its input."""
        if self.use_post_normalization:
            h = getattr(self, f"post_{name}_norm")(h)
        return x + (h * keep[name] if keep and name in keep else h)

    def _dropout_factors(self, x):
        """Return a tensor of 0 and 1 / (1 - dropout) by sublayer."""
        factors = {}
        for name in self._sublayer_names:
            drawn = keras.random.uniform(ops.shape(x), seed=self.seed_generator)
            kept = ops.cast(drawn >= self.dropout, x.dtype)
            factors[name] = kept / (1.0 - self.dropout)
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
            "cross_attention": _serialize_unbuilt(self.cross_attention),
        }

    @classmethod
    def from_config(cls, config):
        """Rebuild the block with its sublayers."""
        config = dict(config)
        for name in ("self_attention", "feed_forward", "cross_attention"):
            if config[name] is not None:
                config[name] = keras.layers.deserialize(config[name])
        return cls(**config)


def _recompute(function, *arguments):
    """Run `function` so that the backward pass runs it again.

    All that has a gradient is an argument, and is passed on as a flat list of tensors: on
    tensorflow, what is closed over gets no gradient, and a None or a tuple is an error.
    """

    def run(*tensors):
        remaining = iter(tensors)
        return function(
            *tree.map_structure(lambda x: x if x is None else next(remaining), arguments)
        )

    return keras.remat(run)(*(x for x in tree.flatten(arguments) if x is not None))


def _serialize_unbuilt(layer):
    """Return a sublayer's config without its build config: the block builds it."""
    if layer is None:
        return None
    config = keras.layers.serialize(layer)
    config.pop("build_config", None)
    return config
