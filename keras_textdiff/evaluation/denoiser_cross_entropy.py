"""How well one denoiser call repairs held-out text, noise level by noise level.

Shapes: N rows, B batch, L length.
"""

import numpy as np
from keras import ops

from keras_textdiff.data.batches import take_examples
from keras_textdiff.evaluation.rows import check_class, read_rows, report, row_keys, run_batches
from keras_textdiff.models.diffusion_lm import DiffusionLM
from keras_textdiff.objectives.cross_entropy import cross_entropy
from keras_textdiff.utils import random
from keras_textdiff.utils.checks import check_choice, check_integer, check_number


def denoiser_cross_entropy(
    lm,
    data,
    noise_levels=(0.1, 0.3, 0.5, 0.7, 0.9),
    *,
    positions="all",
    batch_size=32,
    seed=0,
    progress=None,
):
    """Measure the cross-entropy of clean targets given canvases at fixed noise levels.

    Each target position is replaced, with the noise level as probability, by a token drawn
    uniformly from the vocabulary; one denoiser call then predicts all of them. This is the first
    term of the SUNDAE loss with the proportion held fixed, so that models can be compared level
    by level. It is no likelihood: below level 1, clean tokens see themselves.

    The noise belongs to the row, the seed and the position: it is the same on every backend and
    for every `batch_size`, and what is corrupted at one level is corrupted at all higher ones.

    Args:
        lm: `keras_textdiff.models.DiffusionLM`.
        data: a list of strings; a dict of "prompts" and "responses", lists of strings; or a dict
            of arrays "token_ids" with "padding_mask", "prompt_mask" and "target_mask" as needed;
            as `lm.fit` takes them.
        noise_levels: floats in [0, 1], probability that a target position is replaced.
        positions: "all" for the mean over all target positions, padding that the model learns
            included, as in training; or "corrupted" for those that were replaced.
        batch_size: int, rows per denoiser call.
        seed: int of the noise.
        progress: callable `(stage, done, total)`, called after each batch, or None.

    Returns:
        Dict from noise level to cross-entropy, nats per token.

    Raises:
        ValueError: for a model that is no `DiffusionLM`, data that cannot be read or without a
            target position, a noise level outside [0, 1], or positions="corrupted" where a level
            corrupts nothing.

    Example:
    ```python
    held_out = {"prompts": ["2 + 2 ="], "responses": [" 4"]}
    keras_textdiff.evaluation.denoiser_cross_entropy(lm, held_out, (0.3,))  # {0.3: 1.7}
    ```

    Reference: Savinov et al. 2022, arXiv 2112.06749, equation 2; Han et al. 2024,
    arXiv 2401.17181, section 3.1.
    """
    check_class(
        lm,
        DiffusionLM,
        "Only a DiffusionLM denoises; `keras_textdiff.ar2diff` turns an autoregressive model into "
        "one.",
    )
    noise_levels = [
        check_number("noise_levels", level, minimum=0, maximum=1) for level in noise_levels
    ]
    if not noise_levels:
        raise ValueError("`noise_levels` is empty. Pass at least one number in [0, 1].")
    check_choice("positions", positions, ("all", "corrupted"))
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("seed", seed)
    rows = read_rows(lm, data)
    thresholds, noise_ids = _draw_noise(rows, lm.backbone.vocabulary_size, seed)
    results = {}
    num_rows = len(rows["token_ids"])
    for index, level in enumerate(noise_levels):
        noise_mask = rows["target_mask"] & (thresholds < level)  # (N, L)
        counted = rows["target_mask"] if positions == "all" else noise_mask
        if not counted.any():
            raise ValueError(
                f"Noise level {level} corrupts none of {rows['target_mask'].sum()} target "
                "positions. Pass a higher level, more data, or positions='all'."
            )
        canvas = np.where(noise_mask, noise_ids, rows["token_ids"])
        losses = _per_position(
            lm,
            {**rows, "token_ids": canvas},
            rows["token_ids"],
            batch_size,
            report(progress, "denoising", num_rows * len(noise_levels), num_rows * index),
        )
        results[level] = float(losses[counted].mean(dtype="float64"))
    return results


def _draw_noise(rows, vocabulary_size, seed):
    """Return the level from which each position is corrupted, and the token it then holds."""
    length = rows["token_ids"].shape[1]
    thresholds, noise_ids = [], []
    for key in row_keys(rows):
        stream = random.generator("evaluation_positions", seed, *key)
        thresholds.append(random.uniform(stream, length))
        stream = random.generator("evaluation_tokens", seed, *key)
        noise_ids.append(stream.integers(0, vocabulary_size, length))
    return np.stack(thresholds), np.stack(noise_ids).astype("int32")


def _per_position(lm, rows, targets, batch_size, on_batch):
    """Return the cross-entropy of `targets` at each position, float32 `(N, L)`."""

    def function(inputs):
        hidden_states = lm.hidden_states(inputs)
        shape = ops.shape(inputs["token_ids"])
        targets = ops.reshape(inputs["targets"], (-1,))
        result = cross_entropy(
            lm.backbone.token_embedding,
            ops.reshape(hidden_states, (-1, hidden_states.shape[-1])),
            targets,
            ops.zeros_like(targets, dtype="float32"),
            differentiate=False,
        )
        return ops.reshape(result.per_position, shape)

    compiled = lm._compiled_functions.get("denoiser_cross_entropy", lm, function)
    rows = {**rows, "targets": targets}
    return run_batches(
        compiled,
        lambda indices: take_examples(rows, indices),
        len(targets),
        batch_size,
        on_batch,
    )
