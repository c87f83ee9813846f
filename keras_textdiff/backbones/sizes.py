"""Named sizes of backbones: the paper's, in the shapes of T5 v1.1, and small ones for laptops.

Parameters of "base" with 256,000 tokens, D = 768, 12 layers, 12 heads of 64, inner size 2048:
an attention layer has 4 x 768 x 768 = 2.36 million, a gated network 3 x 768 x 2048 = 4.72
million, an embedding 256,000 x 768 = 196.6 million. A decoder alone with a tied embedding:
196.6 + 12 x (2.36 + 4.72) = 281.5 million. An encoder, and a decoder with cross-attention, with
an untied output projection as in T5 v1.1: 2 x 196.6 + 12 x 7.08 + 12 x 9.44 = 591.4 million.
These are the 280 and 590 million of Han et al. 2024, arXiv 2401.17181.
"""

from keras_textdiff.utils.checks import check_choice, check_integer

# Layers (of the encoder and of the decoder alike), D, heads of 64, inner size.
SHAPES = {
    "tiny": (2, 128, 2, 256),
    "mini": (4, 256, 4, 512),
    "small": (8, 512, 6, 1024),  # T5 v1.1 Small
    "base": (12, 768, 12, 2048),
    "large": (24, 1024, 16, 2816),
    "xl": (24, 2048, 32, 5120),
}
VOCABULARY_SIZE = 256_000


def transformer_config(size, *, vocabulary_size=VOCABULARY_SIZE):
    """Return the arguments of a `TransformerBackbone` of a named size, in T5's style.

    T5's style: gated GELU networks, root mean square norms, relative position biases, no other
    bias; the embedding is tied. "base", "large" and "xl" are the decoders of the AR2Diff paper.
    With 256,000 tokens they have 282, 570 and 1,682 million parameters; "tiny", "mini" and
    "small", with 8,000 tokens, 1.4, 4.7 and 23.0 million.

    Args:
        size: "tiny", "mini", "small", "base", "large" or "xl".
        vocabulary_size: int, number of token ids.

    Returns:
        Dict of constructor arguments; add `attention`, `dropout` or `dtype` to them.

    Raises:
        ValueError: for another name.

    Example:
    ```python
    config = keras_textdiff.backbones.transformer_config("mini", vocabulary_size=8000)
    backbone = keras_textdiff.backbones.TransformerBackbone(**config, attention="causal")
    ```

    Reference: Raffel et al. 2020, arXiv 1910.10683; Han et al. 2024, arXiv 2401.17181, section 4.
    """
    num_layers, config = _shape(size, vocabulary_size)
    return {
        **config,
        "num_layers": num_layers,
        "num_position_buckets": 32,
        "activation": "gelu_tanh",
        "tie_embeddings": True,
    }


def encoder_decoder_config(size, *, vocabulary_size=VOCABULARY_SIZE):
    """Return the arguments of an `EncoderDecoderBackbone` of a named size, in T5's style.

    The shapes of T5 v1.1, its untied output projection included. With 256,000 tokens, "base",
    "large" and "xl" have 591, 1,242 and 3,767 million parameters; "tiny", "mini" and "small",
    with 8,000 tokens, 2.8, 10.4 and 52.3 million.

    Args:
        size: see `transformer_config`.
        vocabulary_size: int, number of token ids.

    Returns:
        Dict of constructor arguments; add `attention`, `dropout` or `dtype` to them.

    Raises:
        ValueError: for another name.

    Example:
    ```python
    config = keras_textdiff.backbones.encoder_decoder_config("mini", vocabulary_size=8000)
    backbone = keras_textdiff.backbones.EncoderDecoderBackbone(**config)
    ```

    Reference: see `transformer_config`.
    """
    num_layers, config = _shape(size, vocabulary_size)
    return {
        **config,
        "num_encoder_layers": num_layers,
        "num_decoder_layers": num_layers,
        "tie_embeddings": False,
    }


def _shape(size, vocabulary_size):
    """Return the number of layers, and the arguments that both kinds of backbones share."""
    check_choice("size", size, tuple(SHAPES))
    check_integer("vocabulary_size", vocabulary_size, minimum=1)
    num_layers, hidden_dim, num_heads, intermediate_dim = SHAPES[size]
    return num_layers, {
        "vocabulary_size": vocabulary_size,
        "num_query_heads": num_heads,
        "num_key_value_heads": num_heads,
        "head_dim": 64,
        "hidden_dim": hidden_dim,
        "intermediate_dim": intermediate_dim,
    }
