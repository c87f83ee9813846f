"""GPT-2: layer normalization, learned positions, biases everywhere, a plain network."""

from keras_textdiff.transfer.families.weights import Weight, attention, blocks, dense, embeddings


def gpt2_config(source):
    """Return the arguments of `TransformerBackbone` for a `GPT2Backbone`."""
    return {
        "vocabulary_size": source.vocabulary_size,
        "num_layers": source.num_layers,
        "num_query_heads": source.num_heads,
        "num_key_value_heads": source.num_heads,
        "head_dim": source.hidden_dim // source.num_heads,
        "hidden_dim": source.hidden_dim,
        "intermediate_dim": source.intermediate_dim,
        "num_learned_positions": source.max_sequence_length,
        "normalization": "layer",
        "normalization_epsilon": source.layer_norm.epsilon,
        "use_qkv_bias": True,
        "use_attention_output_bias": True,
        "gated_feed_forward": False,
        "activation": "gelu_tanh",
        "use_feed_forward_bias": True,
        "tie_embeddings": source.token_embedding.tie_weights,
        "dropout": source.dropout,
    }


def gpt2_weights(source):
    """Return where each weight of a `GPT2Backbone` goes."""
    weights = embeddings(source)
    positions = source.position_embedding.position_embeddings
    weights.append(Weight("position_embedding/embeddings", (positions,)))
    for block, layer in blocks(source):
        projections = layer._self_attention_layer
        weights += attention(
            block,
            query=projections.query_dense,
            key=projections.key_dense,
            value=projections.value_dense,
            output=projections.output_dense,
        )
        weights += dense(f"{block}/feed_forward/up", layer._feedforward_intermediate_dense)
        weights += dense(f"{block}/feed_forward/down", layer._feedforward_output_dense)
        weights += _layer_norm(f"{block}/attention_norm", layer._self_attention_layer_norm)
        weights += _layer_norm(f"{block}/feed_forward_norm", layer._feedforward_layer_norm)
    return weights + _layer_norm("layer_norm", source.layer_norm)


def _layer_norm(destination, layer):
    return [
        Weight(f"{destination}/scale", (layer.gamma,)),
        Weight(f"{destination}/bias", (layer.beta,)),
    ]
