"""An encoder that reads the prefix and a decoder that writes the canvas, as in T5."""

import keras
from keras import ops

from keras_textdiff.backbones.config_checks import (
    attention_parameters,
    check_shared_config,
    feed_forward_parameters,
    norm_parameters,
)
from keras_textdiff.backbones.layers.cross_attention import CrossAttention
from keras_textdiff.backbones.layers.dense import ReversibleEmbedding
from keras_textdiff.backbones.layers.feature_normalization import FeatureNormalization
from keras_textdiff.backbones.layers.feed_forward import (
    GATED_ACTIVATIONS,
    PLAIN_ACTIVATIONS,
    FeedForward,
)
from keras_textdiff.backbones.layers.positions import AttentionMask, Positions
from keras_textdiff.backbones.layers.relative_position_bias import RelativePositionBias
from keras_textdiff.backbones.layers.rotary_embedding import RotaryEmbedding
from keras_textdiff.backbones.layers.self_attention import SelfAttention
from keras_textdiff.backbones.layers.transformer_block import TransformerBlock
from keras_textdiff.backbones.text_backbone import (
    TextBackbone,
    constructor_config,
    empty_cache,
    run_blocks,
)
from keras_textdiff.utils.checks import check_integer
from keras_textdiff.utils.registration import register

ATTENTION_MODES = ("bidirectional", "causal")


@register
class EncoderDecoderBackbone(TextBackbone):
    """An encoder-decoder Transformer from token ids to hidden states, set up by plain arguments.

    The encoder reads the prefix, with attention in both directions; the decoder's columns attend
    to each other and to all of the prefix. One embedding serves both. With the right arguments it
    is T5 v1.1 exactly; `keras_textdiff.ar2diff` sets them from a pretrained model. Weights do not
    depend on `attention`, so the same weights serve a causal and a bidirectional decoder; what
    relative position biases do then is told in `RelativePositionBias`.

    Args:
        vocabulary_size: int, number of token ids V.
        num_encoder_layers: int, Transformer blocks of the encoder.
        num_decoder_layers: int, Transformer blocks of the decoder.
        num_query_heads: int, attention heads.
        num_key_value_heads: int, heads of keys and values; divides `num_query_heads`.
        head_dim: int, size of one head; even where `rope` is set.
        hidden_dim: int, size D of the hidden states.
        intermediate_dim: int, inner size of the feed-forward networks.
        attention: "bidirectional" or "causal", of the decoder's columns among themselves.
        num_position_buckets: int or None, buckets of T5's relative position biases, see
            `RelativePositionBias`.
        maximum_position_distance: int, distance from which on all share one bucket.
        rope: dict or None, see `RotaryEmbedding`; in place of the biases.
        normalization: "rms", "rms_unit_offset" or "layer".
        normalization_epsilon: float.
        attention_scale: float on attention logits; None means `head_dim ** -0.5`. T5 has 1.
        gated_feed_forward: bool.
        activation: "silu", "gelu", "gelu_tanh", "relu", or where gated "clamped_swiglu".
        tie_embeddings: bool, whether the output projection is the transposed embedding.
        dropout: float in [0, 1), share of each sublayer's output dropped in training.
        gradient_checkpointing: bool, whether training keeps only the blocks' inputs.
        dtype: dtype or `keras.DTypePolicy` of computations and weights.
        **kwargs: see `keras.Model`.

    Call arguments:
        inputs: dict of "encoder_token_ids" int `(B, P)`, the prefix; "encoder_padding_mask" bool
            `(B, P)` (True where real); "token_ids" int `(B, L)`, the decoder's columns, a start
            token first; and "padding_mask" bool `(B, L)`.

    Returns:
        Hidden states of the decoder, float `(B, L, D)`; `logits` turns them into `(B, L, V)`.

    Raises:
        ValueError: for an argument out of range, or two that contradict each other.

    Example:
    ```python
    backbone = keras_textdiff.backbones.EncoderDecoderBackbone(
        vocabulary_size=1000, num_encoder_layers=2, num_decoder_layers=2, num_query_heads=4,
        num_key_value_heads=4, head_dim=16, hidden_dim=64, intermediate_dim=256,
    )
    inputs = {
        "encoder_token_ids": np.ones((2, 5), "int32"),
        "encoder_padding_mask": np.ones((2, 5), "bool"),
        "token_ids": np.ones((2, 8), "int32"),
        "padding_mask": np.ones((2, 8), "bool"),
    }
    logits = backbone.logits(backbone(inputs))  # (2, 8, 1000)
    ```

    Reference: Raffel et al. 2020, arXiv 1910.10683 (T5); Shazeer 2020, arXiv 2002.05202 (the
    gated networks of v1.1); Han et al. 2024, arXiv 2401.17181, section 3.
    """

    attention_modes = ATTENTION_MODES
    has_encoder = True

    def __init__(
        self,
        vocabulary_size,
        num_encoder_layers,
        num_decoder_layers,
        num_query_heads,
        num_key_value_heads,
        head_dim,
        hidden_dim,
        intermediate_dim,
        attention="bidirectional",
        num_position_buckets=32,
        maximum_position_distance=128,
        rope=None,
        normalization="rms",
        normalization_epsilon=1e-6,
        attention_scale=None,
        gated_feed_forward=True,
        activation="gelu_tanh",
        tie_embeddings=True,
        dropout=0.0,
        gradient_checkpointing=False,
        dtype=None,
        **kwargs,
    ):
        config = constructor_config(locals())
        self._check_config(config)
        # === Layers ===
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            tie_weights=tie_embeddings,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=dtype,
            name="token_embedding",
        )
        self.positions = Positions(name="positions", dtype=dtype)
        self.encoder_mask = AttentionMask("bidirectional", name="encoder_mask", dtype=dtype)
        self.attention_mask = AttentionMask(attention, name="attention_mask", dtype=dtype)
        self.rotary_embedding = None
        if rope is not None:
            self.rotary_embedding = RotaryEmbedding(
                head_dim, rope, name="rotary_embedding", dtype=dtype
            )
        self.encoder_position_bias = self.decoder_position_bias = None
        if num_position_buckets is not None:
            self.encoder_position_bias, self.decoder_position_bias = (
                RelativePositionBias(
                    num_query_heads,
                    num_position_buckets,
                    maximum_position_distance,
                    split=name == "encoder",
                    name=f"{name}_position_bias",
                    dtype=dtype,
                )
                for name in ("encoder", "decoder")
            )
        self.encoder_layers = [
            _make_block(config, f"encoder_layer_{index}", dtype)
            for index in range(num_encoder_layers)
        ]
        self.decoder_layers = [
            _make_block(config, f"decoder_layer_{index}", dtype, with_encoder=True)
            for index in range(num_decoder_layers)
        ]
        self.encoder_norm, self.decoder_norm = (
            FeatureNormalization(normalization, normalization_epsilon, name=name, dtype=dtype)
            for name in ("encoder_norm", "decoder_norm")
        )
        for name, value in config.items():
            if name != "attention":
                setattr(self, name, value)
        self.attention = attention

        # === Functional model ===
        inputs = {
            name: keras.Input((None,), dtype="int32" if name.endswith("ids") else "bool", name=name)
            for name in ("encoder_token_ids", "encoder_padding_mask", "token_ids", "padding_mask")
        }
        encoded = [self._read(inputs)] * num_decoder_layers
        outputs, _ = self._write(inputs, (inputs["encoder_padding_mask"], encoded))
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)
        self._config_names = tuple(config)

    def _read(self, inputs, training=None):
        """Return the encoder's hidden states `(B, P, D)`."""
        token_ids = inputs["encoder_token_ids"]
        positions = self.positions(token_ids)
        mask = self.encoder_mask(positions, positions, inputs["encoder_padding_mask"])
        kwargs = {"training": training, **self._angles(positions)}
        if self.encoder_position_bias is not None:
            kwargs["position_bias"] = self.encoder_position_bias(positions, positions)
        x = self.token_embedding(token_ids)
        x, _ = run_blocks(self.encoder_layers, x, [(mask, kwargs)] * self.num_encoder_layers)
        return self.encoder_norm(x)

    def _write(self, inputs, context, cache=None, cache_index=0, training=None):
        """Return the decoder's hidden states `(B, L, D)` and its updated cache."""
        encoder_padding_mask, encoded = context
        token_ids = inputs["token_ids"]
        positions = key_positions = self.positions(token_ids, start_index=cache_index)
        if cache is not None:
            key_positions = ops.arange(ops.shape(cache[0][0])[1], dtype="int32")
        encoder_positions = self.positions(encoder_padding_mask)
        mask = self.attention_mask(positions, key_positions, inputs["padding_mask"])
        kwargs = {
            "encoded_mask": self.encoder_mask(positions, encoder_positions, encoder_padding_mask),
            "training": training,
            **self._angles(positions),
        }
        if self.decoder_position_bias is not None:
            kwargs["position_bias"] = self.decoder_position_bias(positions, key_positions)
        arguments = [(mask, {**kwargs, "encoded": layer}) for layer in encoded]
        x = self.token_embedding(token_ids)
        x, cache = run_blocks(self.decoder_layers, x, arguments, cache, cache_index)
        return self.decoder_norm(x), cache

    def _angles(self, positions):
        if self.rotary_embedding is None:
            return {}
        cosine, sine = self.rotary_embedding(positions)
        return {"cosine": cosine, "sine": sine}

    def encode(self, inputs, training=False):
        """Run the encoder, and project what it read for each layer of the decoder.

        Args:
            inputs: dict of the backbone's inputs, those of the encoder at least.
            training: bool.

        Returns:
            "encoder_padding_mask" `(B, P)` and, per layer of the decoder, keys and values
            `(B, P, num_key_value_heads, H)`.
        """
        names = ("encoder_token_ids", "encoder_padding_mask")
        inputs = self.select_inputs(inputs, names)
        encoded = self._read(inputs, training=training)
        projected = tuple(layer.cross_attention.project(encoded) for layer in self.decoder_layers)
        return inputs["encoder_padding_mask"], projected

    def decode(self, inputs, context, training=False):
        """Run the decoder, see `TextBackbone.decode`."""
        inputs = self.select_inputs(inputs, ("token_ids", "padding_mask"))
        return self._write(inputs, context, training=training)[0]

    def make_cache(self, inputs):
        """Run the encoder and return its context with an empty cache of the decoder.

        Args:
            inputs: dict of the backbone's inputs.

        Returns:
            `(context, keys and values)`: what `encode` returns, and per layer of the decoder two
            tensors of zeros `(B, L, num_key_value_heads, H)`.
        """
        batch_size, length = ops.shape(inputs["token_ids"])
        heads, head_dim = self.num_key_value_heads, self.head_dim
        cache = empty_cache(
            self.num_decoder_layers, batch_size, length, heads, head_dim, self.compute_dtype
        )
        return self.encode(inputs), cache

    def call_with_cache(self, inputs, cache, cache_index):
        """Run the decoder on some columns, with the keys and values of those before.

        Args:
            inputs: dict of "token_ids" int `(B, L)`, the columns from `cache_index` on, and
                "padding_mask" bool `(B, K)` for the whole cache.
            cache: see `make_cache`.
            cache_index: int or int tensor, position of the first column.

        Returns:
            `(hidden states (B, L, D), updated cache)`.
        """
        context, cache = cache
        hidden_states, cache = self._write(inputs, context, cache, cache_index)
        return hidden_states, (context, cache)

    @staticmethod
    def _check_config(config):
        activations = GATED_ACTIVATIONS if config["gated_feed_forward"] else PLAIN_ACTIVATIONS
        check_shared_config(config, ATTENTION_MODES, activations)
        for name in ("num_encoder_layers", "num_decoder_layers"):
            check_integer(name, config[name], minimum=1)
        if (config["rope"] is None) == (config["num_position_buckets"] is None):
            raise ValueError(
                "Positions come from `num_position_buckets` or from `rope`: set one of them, and "
                f"the other to None. Got {config['num_position_buckets']} and {config['rope']}."
            )

    @staticmethod
    def _count_parameters(config):
        layers, decoder_layers = config["num_encoder_layers"], config["num_decoder_layers"]
        embeddings = config["vocabulary_size"] * (1 if config["tie_embeddings"] else 2)
        # The decoder's biases have a second set, for what lies ahead.
        biases = 3 * (config["num_position_buckets"] or 0) * config["num_query_heads"]
        return (
            embeddings * config["hidden_dim"]
            + biases
            + (layers + 2 * decoder_layers) * attention_parameters(config)
            + (layers + decoder_layers) * feed_forward_parameters(config)
            + (2 * layers + 3 * decoder_layers + 2) * norm_parameters(config)
        )


def _make_block(config, name, dtype, with_encoder=False):
    """Return a Transformer block of the encoder or of the decoder."""
    heads = config["num_query_heads"], config["num_key_value_heads"], config["head_dim"]
    scale = config["attention_scale"]
    cross_attention = None
    if with_encoder:
        cross_attention = CrossAttention(*heads, scale=scale, dtype=dtype, name="cross_attention")
    return TransformerBlock(
        SelfAttention(*heads, scale=scale, dtype=dtype, name="self_attention"),
        FeedForward(
            config["intermediate_dim"],
            activation=config["activation"],
            gated=config["gated_feed_forward"],
            dtype=dtype,
            name="feed_forward",
        ),
        cross_attention=cross_attention,
        normalization=config["normalization"],
        normalization_epsilon=config["normalization_epsilon"],
        dropout=config["dropout"],
        gradient_checkpointing=config["gradient_checkpointing"],
        dtype=dtype,
        name=name,
    )
