"""Rows that have stopped cost nothing: the others go on in a smaller batch.

Shapes: R rows, L length, S denoising steps, P length of an encoder's rows.
"""

import keras
import numpy as np

from keras_textdiff.utils.compilation import specializes


def shrink_factor(num_calls, stops):
    """Return by what a batch is divided once so few rows go on; 0 where it never is.

    torch, which does not compile, halves it. On jax and tensorflow it takes a quarter, so that
    few sizes are compiled, and that only where a sampler is used again and again.

    Args:
        num_calls: int, how often the loop has run before.
        stops: bool, whether rows stop, and may be left out then.
    """
    if not stops or keras.distribution.distribution() is not None:
        return 0
    if not specializes(num_calls):
        return 0
    return 2 if keras.config.backend() == "torch" else 4


def run_shrinking(function, inputs, num_denoising_steps, factor):
    """Run a sampler's loop, in a smaller batch each time that enough rows have stopped.

    Args:
        function: callable from a dict of arrays, see `Sampler.run`, to the NumPy arrays that it
            returns.
        inputs: dict of arrays, rows first but for noise `(S, R, L)`; an encoder's arrays and
            leading ids may have a row for several of the others.
        num_denoising_steps: int S.
        factor: int, see `shrink_factor`.

    Returns:
        What `function` returns, of all rows.
    """
    size = len(inputs["token_ids"])
    total, rows, step = None, np.arange(size), 0
    while True:
        smaller = size // factor if factor else 0
        scalars = {"first_step": np.int32(step), "resting_rows": np.int32(smaller)}
        outputs = function({**inputs, **scalars})
        step, active = int(outputs.pop("step")), outputs.pop("active")
        total = _merge(total, outputs, rows)
        kept = np.flatnonzero(active[: len(rows)])
        ended = step >= num_denoising_steps or outputs["failed_step"] >= 0 or not len(kept)
        if ended or not smaller:
            return total
        inputs = _take({**inputs, "token_ids": outputs["token_ids"]}, kept, smaller)
        rows, size = rows[kept], smaller


def _merge(total, outputs, rows):
    """Put the outputs of some rows into those of all; steps add up."""
    if total is None:
        return {name: np.array(value) for name, value in outputs.items()}
    total["failed_step"] = outputs["failed_step"]
    total["num_steps"][rows] += outputs["num_steps"][: len(rows)]
    for name in ("token_ids", "scores"):
        total[name][rows] = outputs[name][: len(rows)]
    return total


def _take(inputs, rows, size):
    """Return the inputs of some rows, filled up to a size with rows that have nothing to write."""
    num_rows = len(inputs["token_ids"])
    filled = np.resize(rows, size)  # repeats them
    taken = {}
    for name, value in inputs.items():
        if value.ndim == 3:  # noise
            taken[name] = value[:, filled]
        else:
            taken[name] = np.repeat(value, num_rows // len(value), axis=0)[filled]
    taken["target_mask"] = taken["target_mask"] & (np.arange(size) < len(rows))[:, None]
    return taken
