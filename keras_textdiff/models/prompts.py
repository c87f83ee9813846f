"""What `generate` is given: prompts and stop tokens, checked before work starts.

Shapes: B prompts, L length.
"""

import numpy as np

from keras_textdiff.data.batches import ENCODER_KEYS
from keras_textdiff.utils.checks import check_token_ids


def list_prompts(prompts):
    """Return one prompt or several as a list, or raise a ValueError where they are neither."""
    if isinstance(prompts, (str, bytes)):
        return [prompts]
    if not isinstance(prompts, (list, tuple, np.ndarray)):
        found = sorted(prompts) if isinstance(prompts, dict) else type(prompts).__name__
        raise ValueError(f"Prompts are a string or a list of strings. Got {found}.")
    return list(prompts)


def tokenized_rows(inputs, checker):
    """Return the rows of tokenized prompts; what is not prompt is to be written.

    Args:
        inputs: dict of "token_ids" int `(B, L)` and "padding_mask" bool `(B, L)`, True on the
            prompt, as KerasHub's models take them; for a model with an encoder `ENCODER_KEYS`, too.
        checker: `BatchChecker` of the model.

    Returns:
        Dict of "token_ids", "padding_mask", "prompt_mask" and "target_mask", `(B, L)`, and the
        encoder's arrays.

    Raises:
        ValueError: for anything else, ids outside the vocabulary, or a row that is all prompt.
    """
    encoder = set(ENCODER_KEYS) if checker.has_encoder else set()
    if not isinstance(inputs, dict) or set(inputs) - encoder != {"token_ids", "padding_mask"}:
        found = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(
            "Tokenized prompts are a dict of 'token_ids' and 'padding_mask', True on the prompt. "
            f"Got {found}. Text needs a preprocessor."
        )
    inputs = dict(inputs)
    rows = checker({"prompt_mask": inputs.pop("padding_mask"), **inputs})
    full = ~rows["target_mask"].any(axis=1)
    if full.any():
        raise ValueError(
            f"Row {int(full.argmax())} is all prompt, so nothing is left to write. Make the rows "
            "longer, with False in 'padding_mask' where text is wanted."
        )
    return rows


def stop_tokens(stop_token_ids, preprocessor, vocabulary_size):
    """Return the ids that end a text as a tuple, or None.

    Args:
        stop_token_ids: "auto" for the preprocessor's, one or more ids, or None.
        preprocessor: `TextPreprocessor` or None.
        vocabulary_size: int V; ids must lie below it.
    """
    if stop_token_ids is None:
        return None
    if isinstance(stop_token_ids, str) and stop_token_ids == "auto":
        if preprocessor is None:
            raise ValueError(
                "`stop_token_ids='auto'` needs a preprocessor. Pass a tuple of token ids, or None "
                "to fill the whole row."
            )
        return preprocessor.stop_token_ids
    if not isinstance(stop_token_ids, (list, tuple, np.ndarray)) or not len(stop_token_ids):
        raise ValueError(
            "`stop_token_ids` must be 'auto', None, or one or more token ids in a tuple. Got "
            f"{stop_token_ids!r}."
        )
    check_token_ids("stop_token_ids", stop_token_ids, vocabulary_size)
    return tuple(int(token) for token in stop_token_ids)
