"""T5 and T5 v1.1: an encoder-decoder with relative position biases and no other bias."""

import keras
from keras import ops

from keras_textdiff.transfer.families.weights import Weight, dense, embeddings, split_heads

ACTIVATIONS = {
    keras.activations.relu: "relu",
    keras.activations.gelu: "gelu",
    keras.activations.silu: "silu",
}


def t5_config(source):
    """Return the arguments of `EncoderDecoderBackbone` for a `T5Backbone`."""
    if source.activation not in ACTIVATIONS:
        name = getattr(source.activation, "__name__", source.activation)
        raise ValueError(
            f"The activation of a T5Backbone must be one of {sorted(ACTIVATIONS.values())}. Got "
            f"{name!r}."
        )
    attention = source.encoder_transformer_layers[0].self_attention
    return {
        "vocabulary_size": source.vocabulary_size,
        "num_encoder_layers": source.num_layers,
        "num_decoder_layers": source.num_layers,
        "num_query_heads": source.num_heads,
        "num_key_value_heads": source.num_heads,
        "head_dim": attention.key_value_dim,
        "hidden_dim": source.hidden_dim,
        "intermediate_dim": source.intermediate_dim,
        "num_position_buckets": attention.relative_attention_buckets,
        "maximum_position_distance": attention.relative_attention_max_distance,
        "normalization_epsilon": source.layer_norm_epsilon,
        "attention_scale": 1.0,
        "gated_feed_forward": source.use_gated_activation,
        "activation": ACTIVATIONS[source.activation],
        "tie_embeddings": source.token_embedding.tie_weights,
        "dropout": source.dropout,
    }


def t5_weights(source):
    """Return where each weight of a `T5Backbone` goes."""
    weights = embeddings(source)
    for stack in ("encoder", "decoder"):
        layers = getattr(source, f"{stack}_transformer_layers")
        biases = layers[0].self_attention.relative_attention_bias  # shared by all layers
        weights.append(Weight(f"{stack}_position_bias/bias", (biases,)))
        for index, layer in enumerate(layers):
            block = f"{stack}_layer_{index}"
            weights += _attention(f"{block}/self_attention", layer.self_attention)
            weights += _norm(f"{block}/attention_norm", layer.self_attention_layer_norm)
            if stack == "decoder":
                weights += _attention(f"{block}/cross_attention", layer.cross_attention)
                weights += _norm(f"{block}/cross_attention_norm", layer.cross_attention_layer_norm)
            network = f"{block}/feed_forward"
            if source.use_gated_activation:
                weights += dense(f"{network}/gate", layer.input_projector)
                weights += dense(f"{network}/up", layer.gate_projector)
            else:
                weights += dense(f"{network}/up", layer.input_projector)
            weights += dense(f"{network}/down", layer.output_projector)
            weights += _norm(f"{block}/feed_forward_norm", layer.layer_norm)
    # Nothing of the source says what lies ahead of a causal decoder.
    weights.append(Weight("decoder_position_bias/ahead", (), lambda: ops.zeros(biases.shape)))
    weights += _norm("encoder_norm", source.encoder_layer_norm)
    # With a tied embedding, T5 scales the hidden states in front of it: the last norm can.
    tied = source.token_embedding.tie_weights
    scale = source.hidden_dim**-0.5
    last = source.decoder_layer_norm.weight
    transform = (lambda weight: weight * ops.cast(scale, weight.dtype)) if tied else None
    return [*weights, Weight("decoder_norm/scale", (last,), transform)]


def _attention(destination, layer):
    heads = split_heads(layer.key_value_dim)
    return [
        *dense(f"{destination}/query", layer.query_projector, heads),
        *dense(f"{destination}/key", layer.key_projector, heads),
        *dense(f"{destination}/value", layer.value_projector, heads),
        *dense(
            f"{destination}/attention_output",
            layer.output_projector,
            lambda kernel: ops.reshape(kernel, (layer.num_heads, layer.key_value_dim, -1)),
        ),
    ]


def _norm(destination, layer):
    return [Weight(f"{destination}/scale", (layer.weight,))]
