"""Arguments of `TransformerBackbone` that several families share."""


def decoder_config(source):
    """Return the arguments that most families name alike."""
    return {
        "vocabulary_size": source.vocabulary_size,
        "num_layers": source.num_layers,
        "num_query_heads": source.num_query_heads,
        "num_key_value_heads": source.num_key_value_heads,
        "hidden_dim": source.hidden_dim,
        "intermediate_dim": source.intermediate_dim,
        "dropout": source.dropout,
        # Read from the layer: LlamaBackbone.get_config leaves it out.
        "tie_embeddings": source.token_embedding.tie_weights,
    }


def head_dim(source):
    """Return the head size of a source whose `head_dim` may be None."""
    return source.head_dim or source.hidden_dim // source.num_query_heads


def rope(theta, factor=1.0):
    """Return the rotary config of plain or linearly scaled frequencies."""
    config = {"theta": float(theta)}
    if factor != 1:
        config.update(scaling="linear", factor=float(factor))
    return config


def windows(sliding_window, layers):
    """Return the arguments for layers with a window, or none where there is no window."""
    layers = list(layers)
    if not sliding_window or not layers:
        return {}
    return {"sliding_window": sliding_window, "sliding_window_layers": layers}
