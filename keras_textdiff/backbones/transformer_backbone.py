"""One configurable decoder for every family of pretrained models."""

import keras
from keras import ops

from keras_textdiff.backbones.attention_masks import ATTENTION_MODES
from keras_textdiff.backbones.config_checks import (
    attention_parameters,
    check_shared_config,
    feed_forward_parameters,
    norm_parameters,
)
from keras_textdiff.backbones.layers.dense import ReversibleEmbedding
from keras_textdiff.backbones.layers.feature_normalization import FeatureNormalization
from keras_textdiff.backbones.layers.feed_forward import (
    GATED_ACTIVATIONS,
    PLAIN_ACTIVATIONS,
    FeedForward,
)
from keras_textdiff.backbones.layers.mixture_of_experts import MixtureOfExperts
from keras_textdiff.backbones.layers.positions import AttentionMask, Positions
from keras_textdiff.backbones.layers.relative_position_bias import RelativePositionBias
from keras_textdiff.backbones.layers.rotary_embedding import RotaryEmbedding, check_rope
from keras_textdiff.backbones.layers.self_attention import SelfAttention
from keras_textdiff.backbones.layers.transformer_block import TransformerBlock
from keras_textdiff.backbones.text_backbone import (
    TextBackbone,
    constructor_config,
    empty_cache,
    run_blocks,
)
from keras_textdiff.utils.checks import check_integer, check_number
from keras_textdiff.utils.registration import register


@register
class TransformerBackbone(TextBackbone):
    """A Transformer from token ids to hidden states, set up by plain arguments.

    The same class represents GPT-2, Llama 2 and 3, Mistral, Qwen2.5, Qwen3, Gemma 1 to 3, Phi3,
    SmolLM3, Mixtral, Qwen3-MoE and GPT-OSS exactly; `keras_textdiff.ar2diff` sets it up from a
    pretrained model. Weights do not depend on `attention`, so the same weights serve a causal
    and a bidirectional model.

    Args:
        vocabulary_size: int, number of token ids V.
        num_layers: int, number of Transformer blocks.
        num_query_heads: int, attention heads.
        num_key_value_heads: int, heads of keys and values; divides `num_query_heads`.
        head_dim: int, size of one head; even where `rope` is set.
        hidden_dim: int, size D of the hidden states.
        intermediate_dim: int, inner size of the feed-forward networks.
        attention: "bidirectional", "causal", "prefix" (bidirectional over the prompt, causal
            over the target) or "block" (causal across blocks, bidirectional inside one).
        block_length: int, tokens per block; for "block" only.
        num_learned_positions: int or None, size of a learned position embedding.
        num_position_buckets: int or None, buckets of T5's relative position biases, see
            `RelativePositionBias`.
        maximum_position_distance: int, distance from which on all share one bucket.
        rope: dict or None, see `RotaryEmbedding`.
        sliding_window_rope: dict or None, rotary config of the layers in
            `sliding_window_layers`; None means `rope`.
        layers_without_rope: layer indices that use no rotary embedding.
        sliding_window: int or None; windowed layers see keys less than this many positions
            away, on both sides where attention is bidirectional.
        sliding_window_layers: indices of the windowed layers.
        normalization: "rms", "rms_unit_offset" or "layer".
        normalization_epsilon: float.
        use_post_normalization: bool, whether each sublayer's output is normalized too.
        query_key_normalization: bool, whether each head's query and key are normalized.
        query_key_epsilon: float, epsilon of that normalization.
        use_qkv_bias: bool.
        use_attention_output_bias: bool.
        attention_scale: float on attention logits; None means `head_dim ** -0.5`.
        attention_soft_cap: float or None, bound on attention logits by tanh.
        use_attention_sinks: bool, whether heads have a learned logit that attends to nothing.
        gated_feed_forward: bool.
        activation: "silu", "gelu", "gelu_tanh", "relu", or where gated "clamped_swiglu".
        use_feed_forward_bias: bool.
        num_experts: int, 0 for no mixture of experts.
        num_experts_per_token: int, experts that count per token.
        expert_layers: indices of the layers whose feed-forward network is a mixture.
        expert_intermediate_dim: int or None, inner size of one expert; None means
            `intermediate_dim`.
        normalize_expert_weights: bool, whether selected experts' weights sum to 1.
        use_expert_bias: bool, whether router and experts have a bias.
        scale_embeddings: bool, whether embeddings are multiplied by `sqrt(hidden_dim)`.
        tie_embeddings: bool, whether the output projection is the transposed embedding.
        logit_soft_cap: float or None, bound on the output logits by tanh.
        dropout: float in [0, 1), share of each sublayer's output dropped in training.
        gradient_checkpointing: bool, whether training keeps only the blocks' inputs.
        dtype: dtype or `keras.DTypePolicy` of computations and weights.
        **kwargs: see `keras.Model`.

    Call arguments:
        inputs: dict of "token_ids" int `(B, L)`, "padding_mask" bool `(B, L)` (True where real)
            and, for "prefix" only, "prompt_mask" bool `(B, L)` (True on prefix positions). Packed
            rows add "segment_ids" int `(B, L)`: which document; each sees itself alone.

    Returns:
        Hidden states, float `(B, L, D)`; `logits` turns them into `(B, L, V)`.

    Raises:
        ValueError: for an argument out of range, or two that contradict each other.

    Example:
    ```python
    backbone = keras_textdiff.backbones.TransformerBackbone(
        vocabulary_size=1000, num_layers=2, num_query_heads=4, num_key_value_heads=2,
        head_dim=16, hidden_dim=64, intermediate_dim=256, rope={"theta": 10000.0},
    )
    inputs = {"token_ids": np.ones((2, 8), "int32"), "padding_mask": np.ones((2, 8), "bool")}
    logits = backbone.logits(backbone(inputs))  # (2, 8, 1000)
    ```

    Reference: Vaswani et al. 2017, arXiv 1706.03762; the attention modes: Han et al. 2024, arXiv
    2401.17181, section 3, and Arriola et al. 2025, arXiv 2503.09573 (block).
    """

    attention_modes = ATTENTION_MODES

    def __init__(
        self,
        vocabulary_size,
        num_layers,
        num_query_heads,
        num_key_value_heads,
        head_dim,
        hidden_dim,
        intermediate_dim,
        attention="bidirectional",
        block_length=None,
        num_learned_positions=None,
        num_position_buckets=None,
        maximum_position_distance=128,
        rope=None,
        sliding_window_rope=None,
        layers_without_rope=(),
        sliding_window=None,
        sliding_window_layers=(),
        normalization="rms",
        normalization_epsilon=1e-6,
        use_post_normalization=False,
        query_key_normalization=False,
        query_key_epsilon=1e-6,
        use_qkv_bias=False,
        use_attention_output_bias=False,
        attention_scale=None,
        attention_soft_cap=None,
        use_attention_sinks=False,
        gated_feed_forward=True,
        activation="silu",
        use_feed_forward_bias=False,
        num_experts=0,
        num_experts_per_token=2,
        expert_layers=(),
        expert_intermediate_dim=None,
        normalize_expert_weights=True,
        use_expert_bias=False,
        scale_embeddings=False,
        tie_embeddings=True,
        logit_soft_cap=None,
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
            logit_soft_cap=logit_soft_cap,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=dtype,
            name="token_embedding",
        )
        self.position_embedding = None
        if num_learned_positions is not None:
            self.position_embedding = keras.layers.Embedding(
                num_learned_positions,
                hidden_dim,
                embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
                dtype=dtype,
                name="position_embedding",
            )
        self.position_bias = None
        if num_position_buckets is not None:
            self.position_bias = RelativePositionBias(
                num_query_heads,
                num_position_buckets,
                maximum_position_distance,
                dtype=dtype,
                name="position_bias",
            )
        self.positions = Positions(name="positions", dtype=dtype)
        self.attention_mask = AttentionMask(
            attention, block_length, name="attention_mask", dtype=dtype
        )
        self.sliding_window_mask = None
        if sliding_window_layers:
            self.sliding_window_mask = AttentionMask(
                attention, block_length, sliding_window, name="sliding_window_mask", dtype=dtype
            )
        self.rotary_embedding = self.sliding_window_rotary_embedding = None
        if rope is not None:
            self.rotary_embedding = RotaryEmbedding(
                head_dim, rope, name="rotary_embedding", dtype=dtype
            )
            self.sliding_window_rotary_embedding = self.rotary_embedding
        if sliding_window_rope is not None:
            self.sliding_window_rotary_embedding = RotaryEmbedding(
                head_dim, sliding_window_rope, name="sliding_window_rotary_embedding", dtype=dtype
            )
        self.transformer_layers = [_make_block(config, index, dtype) for index in range(num_layers)]
        self.layer_norm = FeatureNormalization(
            normalization, normalization_epsilon, dtype=dtype, name="layer_norm"
        )
        for name, value in config.items():
            if name != "attention":
                setattr(self, name, value)
        self.attention = attention

        # === Functional model ===
        inputs = {
            "token_ids": keras.Input((None,), dtype="int32", name="token_ids"),
            "padding_mask": keras.Input((None,), dtype="bool", name="padding_mask"),
        }
        if attention == "prefix":
            inputs["prompt_mask"] = keras.Input((None,), dtype="bool", name="prompt_mask")
        outputs, _ = self._forward(inputs)
        super().__init__(inputs=inputs, outputs=outputs, dtype=dtype, **kwargs)
        self._config_names = tuple(config)

    def call(self, inputs, training=None, mask=None):
        """Run the model; packed rows pass by the functional graph, which is without segments."""
        if "segment_ids" in inputs:
            return self._forward(inputs)[0]
        return super().call(inputs, training=training, mask=mask)

    def _forward(self, inputs, cache=None, cache_index=0):
        """Run the layers; builds the functional graph, and is the cached or packed call itself."""
        token_ids = inputs["token_ids"]  # (B, L)
        segment_ids = inputs.get("segment_ids")
        positions = self.positions(token_ids, start_index=cache_index, segment_ids=segment_ids)
        key_positions = positions
        if cache is not None:
            key_positions = ops.arange(ops.shape(cache[0][0])[1], dtype="int32")  # (K,)
        masks, angles = {}, {}
        for windowed, mask, rotary in (
            (False, self.attention_mask, self.rotary_embedding),
            (True, self.sliding_window_mask, self.sliding_window_rotary_embedding),
        ):
            if mask is not None:
                masks[windowed] = mask(
                    positions,
                    key_positions,
                    inputs["padding_mask"],
                    prompt_mask=inputs.get("prompt_mask"),
                    segment_ids=segment_ids,
                )
            if rotary is not None and mask is not None:
                angles[windowed] = rotary(positions)
        x = self.token_embedding(token_ids)  # (B, L, D)
        if self.scale_embeddings:
            x = x * ops.cast(self.hidden_dim**0.5, x.dtype)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        position_bias = None
        if self.position_bias is not None:
            position_bias = self.position_bias(positions, key_positions)
        arguments = []
        for index in range(self.num_layers):
            windowed = index in self.sliding_window_layers
            cosine, sine = (None, None)
            if index not in self.layers_without_rope:
                cosine, sine = angles.get(windowed, (None, None))
            kwargs = {"cosine": cosine, "sine": sine, "position_bias": position_bias}
            arguments.append((masks[windowed], kwargs))
        x, cache = run_blocks(self.transformer_layers, x, arguments, cache, cache_index)
        return self.layer_norm(x), cache

    def encode(self, inputs, training=False):
        """Return nothing: the prefix stands in front of the canvas."""
        return ()

    def decode(self, inputs, context, training=False):
        """Return the hidden states of prefix and canvas, see `TextBackbone.decode`."""
        names = [*self.input, *({"segment_ids"} & set(inputs))]
        return self(self.select_inputs(inputs, names), training=training)

    def count_settled(self, count):
        """Return how many leading positions keep their keys, see `TextBackbone.count_settled`."""
        if self.attention == "block":
            return count // self.block_length * self.block_length
        return count if self.attention == "prefix" else 0

    def read_settled(self, inputs, count):
        """Return a cache that holds the keys and values of `count_settled` positions.

        Args:
            inputs: dict of the backbone's inputs `(B, L)`.
            count: int, what `count_settled` returned.
        """
        token_ids = inputs["token_ids"]
        if self.attention == "block":  # they see nothing behind; in "prefix", the whole prompt
            token_ids = token_ids[:, :count]
        cache = self.make_cache(inputs)
        return self.call_with_cache({**inputs, "token_ids": token_ids}, cache, 0)[1]

    def make_cache(self, inputs):
        """Return an empty cache for all columns of "token_ids", see `empty_cache`."""
        return self.empty_cache(*ops.shape(inputs["token_ids"]))

    def empty_cache(self, batch_size, length):
        """Return a key-value cache for `length` positions.

        Args:
            batch_size: int B.
            length: int K.

        Returns:
            Tuple with, per layer, `(keys, values)` of shape `(B, K, num_key_value_heads, H)`.
        """
        heads, head_dim = self.num_key_value_heads, self.head_dim
        return empty_cache(self.num_layers, batch_size, length, heads, head_dim, self.compute_dtype)

    def call_with_cache(self, inputs, cache, cache_index):
        """Run on some columns of a sequence, with the keys and values of those before.

        Args:
            inputs: dict of "token_ids" int `(B, L)`, the columns from `cache_index` on;
                "padding_mask" bool `(B, K)` and, for "prefix", "prompt_mask" bool `(B, K)`, both
                for the whole cache.
            cache: see `empty_cache`.
            cache_index: int or int tensor, position of the first column.

        Returns:
            `(hidden states (B, L, D), updated cache)`.
        """
        return self._forward(inputs, cache, cache_index)

    @staticmethod
    def _check_config(config):
        gated = config["gated_feed_forward"] or bool(config["expert_layers"])
        activations = GATED_ACTIVATIONS if gated else PLAIN_ACTIVATIONS
        check_shared_config(config, ATTENTION_MODES, activations)
        for name in ("num_layers", "num_experts_per_token"):
            check_integer(name, config[name], minimum=1)
        for name in (
            "block_length",
            "num_learned_positions",
            "sliding_window",
            "expert_intermediate_dim",
        ):
            if config[name] is not None:
                check_integer(name, config[name], minimum=1)
        check_integer("num_experts", config["num_experts"], minimum=0)
        check_number("query_key_epsilon", config["query_key_epsilon"], minimum=0)
        for name in ("attention_soft_cap", "logit_soft_cap"):
            if config[name] is not None:
                check_number(name, config[name], minimum=1e-12)
        for name in ("layers_without_rope", "sliding_window_layers", "expert_layers"):
            for index in config[name]:
                check_integer(f"{name} entry", index, minimum=0, maximum=config["num_layers"] - 1)
        check_rope("sliding_window_rope", config["sliding_window_rope"], config["head_dim"])
        for first, second, message in (
            (config["attention"] == "block", config["block_length"] is not None,
             "`block_length` goes with `attention='block'`, and only with it."),
            (bool(config["sliding_window_layers"]), config["sliding_window"] is not None,
             "`sliding_window` and `sliding_window_layers` go together."),
            (bool(config["expert_layers"]), config["num_experts"] > 0,
             "`num_experts` and `expert_layers` go together."),
        ):  # fmt: skip
            if first != second:
                raise ValueError(f"{message} Got one without the other.")
        if config["num_experts"] and config["num_experts_per_token"] > config["num_experts"]:
            raise ValueError(
                f"`num_experts_per_token` ({config['num_experts_per_token']}) exceeds "
                f"`num_experts` ({config['num_experts']})."
            )

    @staticmethod
    def _count_parameters(config):
        hidden, inner = config["hidden_dim"], config["intermediate_dim"]
        heads, head_dim = config["num_query_heads"], config["head_dim"]
        layers, experts = config["num_layers"], config["num_experts"]

        embeddings = config["vocabulary_size"] * (1 if config["tie_embeddings"] else 2)
        embeddings = (embeddings + (config["num_learned_positions"] or 0)) * hidden
        embeddings += 2 * (config["num_position_buckets"] or 0) * heads

        attention = attention_parameters(config)
        if config["use_qkv_bias"]:
            attention += (heads + 2 * config["num_key_value_heads"]) * head_dim
        attention += hidden if config["use_attention_output_bias"] else 0
        if config["query_key_normalization"]:
            attention += 2 * norm_parameters({**config, "hidden_dim": head_dim})
        attention += heads if config["use_attention_sinks"] else 0

        feed_forward = feed_forward_parameters(config)
        if config["use_feed_forward_bias"]:
            feed_forward += (2 if config["gated_feed_forward"] else 1) * inner + hidden
        inner = config["expert_intermediate_dim"] or inner
        mixture = experts * hidden * (1 + 3 * inner)  # a column of the router, gate, up and down
        mixture += experts * (1 + 2 * inner + hidden) if config["use_expert_bias"] else 0
        num_mixtures = len(set(config["expert_layers"]))

        num_norms = layers * (4 if config["use_post_normalization"] else 2) + 1
        return (
            embeddings
            + layers * attention
            + (layers - num_mixtures) * feed_forward
            + num_mixtures * mixture
            + num_norms * norm_parameters(config)
        )


def _make_block(config, index, dtype):
    """Return the Transformer block of layer `index`."""
    attention = SelfAttention(
        config["num_query_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
        use_qkv_bias=config["use_qkv_bias"],
        use_output_bias=config["use_attention_output_bias"],
        query_key_normalization=(
            config["normalization"] if config["query_key_normalization"] else None
        ),
        query_key_epsilon=config["query_key_epsilon"],
        scale=config["attention_scale"],
        soft_cap=config["attention_soft_cap"],
        use_sinks=config["use_attention_sinks"],
        dtype=dtype,
        name="self_attention",
    )
    if index in config["expert_layers"]:
        feed_forward = MixtureOfExperts(
            config["num_experts"],
            config["num_experts_per_token"],
            config["expert_intermediate_dim"] or config["intermediate_dim"],
            activation=config["activation"],
            normalize_weights=config["normalize_expert_weights"],
            use_bias=config["use_expert_bias"],
            dtype=dtype,
            name="mixture_of_experts",
        )
    else:
        feed_forward = FeedForward(
            config["intermediate_dim"],
            activation=config["activation"],
            gated=config["gated_feed_forward"],
            use_bias=config["use_feed_forward_bias"],
            dtype=dtype,
            name="feed_forward",
        )
    return TransformerBlock(
        attention,
        feed_forward,
        normalization=config["normalization"],
        normalization_epsilon=config["normalization_epsilon"],
        use_post_normalization=config["use_post_normalization"],
        dropout=config["dropout"],
        gradient_checkpointing=config["gradient_checkpointing"],
        dtype=dtype,
        name=f"transformer_layer_{index}",
    )
