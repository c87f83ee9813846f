"""Positions in front of all canvases get no logits; where masks allow, a canvas reads them once.

Shapes: R rows, L length, S denoising steps, F leading positions.
"""

import numpy as np

from keras_textdiff.utils.compilation import specializes

PARTS = 4  # F is a multiple of L / 4, so that few combinations of F and L are compiled
PER_POSITION = ("token_ids", "target_mask")


def first_target(target_mask):
    """Return the first position that is written in any row of `(R, L)`; 0 where none is."""
    return int(np.argmax(target_mask.any(axis=0)))


def prompts_lead(prompt_mask, target_mask):
    """Return whether no prompt position stands behind a target of its row; arrays `(R, L)`."""
    return not (prompt_mask & np.logical_or.accumulate(target_mask, axis=1)).any()


def count_leading(first, length, num_calls):
    """Return how many positions F are left out; 0 where it is not worth another compilation.

    Args:
        first: int, `first_target` of all rows.
        length: int L.
        num_calls: int, how often the loop has run before.
    """
    if not specializes(num_calls):
        return 0
    part = max(1, length // PARTS)
    return min(first, length - 1) // part * part


def cut_leading(inputs, count, noise_streams, num_canvases):
    """Return the inputs of a sampler's loop without leading positions, which become "leading_ids".

    What the model reads beside token ids keeps its length.

    Args:
        inputs: dict of arrays, `(R, L)` or noise `(S, R, L)`, see `Sampler.make_canvases`.
        count: int F.
        noise_streams: names of the noise.
        num_canvases: int, rows per prompt, which start alike: "leading_ids" has one for them all.
    """
    cut = {name: inputs[name][..., count:] for name in (*PER_POSITION, *noise_streams)}
    return {**inputs, **cut, "leading_ids": inputs["token_ids"][::num_canvases, :count]}


def add_leading(outputs, leading_ids):
    """Return the loop's outputs with leading positions, whose confidence is 1."""
    outputs = dict(outputs)
    num_canvases = len(outputs["token_ids"]) // len(leading_ids)
    leading_ids = np.repeat(leading_ids, num_canvases, axis=0)
    for name in {"token_ids", "canvases", "confidences"} & set(outputs):
        value = outputs[name]
        leading = np.ones_like(leading_ids) if name == "confidences" else leading_ids
        leading = np.broadcast_to(leading, (*value.shape[:-1], leading_ids.shape[-1]))
        outputs[name] = np.concatenate([leading.astype(value.dtype), value], axis=-1)
    return outputs
