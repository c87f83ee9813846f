"""What a model refuses before it is built or trained."""

import keras
from keras import ops


def check_fit_arguments(y, kwargs):
    """Refuse arguments of `keras.Model.fit` that an objective of ours does not use."""
    for name, value in (("y", y), *((n, kwargs.get(n)) for n in ("sample_weight", "class_weight"))):
        if value is not None:
            raise ValueError(
                f"`{name}` is not used: targets and their mask come from `x`. Got a "
                f"{type(value).__name__}. Pass {{'prompts', 'responses'}} or a 'target_mask'."
            )
    if kwargs.get("validation_split"):
        raise ValueError("Split the data yourself and pass `validation_data`.")


def check_attention(objective, attention, default):
    """Refuse an objective under which a model sees what it is to predict, or cannot see enough."""
    modes = objective.attention_modes
    if modes is not None and attention not in modes:
        raise ValueError(
            f"{type(objective).__name__} trains models whose attention is one of {modes}. The "
            f"backbone's is {attention!r}. Pass another objective, e.g. {default!r}."
        )


def check_optimizer(optimizer, variables):
    """Refuse what Keras would run without changing a weight."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    beta = getattr(optimizer, "beta_2", None)
    for variable in variables:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if isinstance(beta, float) and dtype in ("bfloat16", "float16"):
            if float(ops.convert_to_numpy(ops.cast(ops.cast(beta, dtype), "float32"))) == 1.0:
                raise ValueError(
                    f"{type(optimizer).__name__} cannot train {dtype} weights: its beta_2 of "
                    f"{beta} rounds to 1, and no weight would change. Load the model with "
                    f"dtype='mixed_{dtype}' (float32 weights, {dtype} computations)."
                )
            return


def check_preprocessor(backbone, preprocessor):
    """Refuse a preprocessor whose rows the backbone cannot read."""
    if backbone.has_encoder != (preprocessor.prefix_length is not None):
        fix = (
            "the length of its encoder's rows" if backbone.has_encoder else "None: one row for all"
        )
        raise ValueError(
            f"A preprocessor for a {type(backbone).__name__} needs as `prefix_length` {fix}. Got "
            f"{preprocessor.prefix_length}."
        )
    start = preprocessor.decoder_start_token_id
    if start is not None and start >= backbone.vocabulary_size:
        raise ValueError(
            f"`decoder_start_token_id` is {start} and the backbone's vocabulary "
            f"{backbone.vocabulary_size}. Pass the start token that the backbone was trained with."
        )
    special = preprocessor.format.special_token_ids
    if special and max(special) >= backbone.vocabulary_size:
        raise ValueError(
            f"The preprocessor's format uses token {max(special)}, but the backbone's vocabulary "
            f"is {backbone.vocabulary_size}. Use a larger `vocabulary_size`, or lower ids."
        )
    try:
        size = preprocessor.tokenizer.vocabulary_size()
    except ValueError:  # its vocabulary is loaded after it, from a saved file
        return
    if size > backbone.vocabulary_size:
        raise ValueError(
            f"The tokenizer has {size} tokens and the backbone's vocabulary "
            f"{backbone.vocabulary_size}. Use the tokenizer that the backbone was trained with."
        )
