"""What measures on held-out text share: rows of tokens, their keys, and the loop over batches.

Shapes: N rows, B batch, L length.
"""

import numpy as np

from keras_textdiff.backbones.text_backbone import TextBackbone
from keras_textdiff.data.batches import BatchChecker
from keras_textdiff.models.causal_lm_preprocessor import CausalLMPreprocessor
from keras_textdiff.models.text_preprocessor import TextPreprocessor
from keras_textdiff.samplers.sampler import encoder_tokens
from keras_textdiff.utils import random


def text_preprocessor(lm):
    """Return the model's preprocessor, or one of ours around the tokenizer of KerasHub's."""
    preprocessor = lm.preprocessor
    if preprocessor is None or isinstance(preprocessor, TextPreprocessor):
        return preprocessor
    return CausalLMPreprocessor(
        preprocessor.tokenizer,
        sequence_length=preprocessor.sequence_length,
        add_start_token=preprocessor.add_start_token,
    )


def check_class(value, classes, message):
    """Raise a ValueError with `message` unless `value` is of one of `classes`."""
    if not isinstance(value, classes):
        raise ValueError(f"{message} Got {type(value).__name__}.")


def read_rows(lm, data):
    """Return all rows as arrays `(N, L)`, see `data.batches.BATCH_KEYS`.

    Args:
        lm: a model with `preprocessor` and `backbone.vocabulary_size`.
        data: text or token arrays, as `lm.fit` takes them.

    Raises:
        ValueError: for data that cannot be read, or without a target position.
    """
    if not is_tokenized(data):
        preprocessor = text_preprocessor(lm)
        if preprocessor is None:
            raise ValueError(
                "A model without a preprocessor is evaluated on a dict with 'token_ids'. Got "
                f"{type(data).__name__}. Attach a preprocessor to evaluate on text."
            )
        if isinstance(data, (str, bytes)):
            raise ValueError("Pass a list of strings. Got one string.")
        texts = list(data.values()) if isinstance(data, dict) else [data]
        if not all(len(column) for column in texts):
            raise ValueError("There is nothing to evaluate on: got no examples.")
        # All rows at once: where equal texts are split must not depend on the batch size.
        data = preprocessor(data if isinstance(data, dict) else list(data))
    has_encoder = isinstance(lm.backbone, TextBackbone) and lm.backbone.has_encoder
    rows = BatchChecker(lm.backbone.vocabulary_size, has_encoder)(data)
    if not rows["target_mask"].any():
        raise ValueError(
            f"None of {len(rows['token_ids'])} rows has a target position within "
            f"{rows['token_ids'].shape[1]} tokens. Pass shorter prompts or a larger "
            "`sequence_length`."
        )
    return rows


def is_tokenized(data):
    """Return whether `data` holds token arrays instead of text."""
    return isinstance(data, dict) and "token_ids" in data


def row_keys(rows):
    """Return one key per row for its noise, made of its tokens and where its target stands."""
    return random.row_keys(
        [
            np.concatenate([prefix, ids[real], np.flatnonzero(target)])
            for prefix, ids, real, target in zip(
                encoder_tokens(rows),
                rows["token_ids"],
                rows["padding_mask"],
                rows["target_mask"],
                strict=True,
            )
        ]
    )


def run_batches(function, make_batch, num_rows, batch_size, on_batch=None):
    """Run a compiled function over rows, in batches of one shape.

    Args:
        function: callable from a batch to an array `(B, ...)`.
        make_batch: callable from B row indices to a batch.
        num_rows: int N.
        batch_size: int, most rows at a time.
        on_batch: callable, called with the number of rows done so far.

    Returns:
        Array `(N, ...)`.
    """
    batch_size = min(batch_size, num_rows)
    results = []
    for start in range(0, num_rows, batch_size):
        # The last batch is filled up with its first row, so that one shape is compiled.
        indices = np.arange(start, start + batch_size)
        results.append(function(make_batch(np.where(indices < num_rows, indices, start))))
        if on_batch is not None:
            on_batch(min(start + batch_size, num_rows))
    return np.concatenate(results)[:num_rows]


def report(progress, stage, total, before=0):
    """Return what tells `progress` how much is done, or None where there is nobody to tell.

    Args:
        progress: callable `(stage, done, total)` or None.
        stage: str, what is being done.
        total: int, all there is to do.
        before: int, done before.
    """
    if progress is None:
        return None
    return lambda done: progress(stage, before + done, total)


def perplexity(nats_per_token):
    """Return the exponential, infinite where it is too large for a float."""
    with np.errstate(over="ignore"):
        return float(np.exp(nats_per_token))
