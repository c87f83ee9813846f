"""How well one denoiser call repairs held-out text, noise level by noise level.

Shapes: N rows, B batch, L length.
"""

import numpy as np
from keras import ops

from keras_textdiff.data.batches import encoder_tokens, take_examples
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
    if not isinstance(lm, DiffusionLM):
        raise ValueError(
            f"Only a DiffusionLM denoises. Got {type(lm).__name__}. Turn an autoregressive model "
            "into one with `keras_textdiff.ar2diff`."
        )
    noise_levels = [
        check_number("noise_levels", level, minimum=0, maximum=1) for level in noise_levels
    ]
    if not noise_levels:
        raise ValueError("`noise_levels` is empty. Pass at least one number in [0, 1].")
    check_choice("positions", positions, ("all", "corrupted"))
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("seed", seed)
    rows = _read_rows(lm, data)
    thresholds, noise_ids = _draw_noise(rows, lm.backbone.vocabulary_size, seed)
    results = {}
    for level in noise_levels:
        noise_mask = rows["target_mask"] & (thresholds < level)  # (N, L)
        counted = rows["target_mask"] if positions == "all" else noise_mask
        if not counted.any():
            raise ValueError(
                f"Noise level {level} corrupts none of {rows['target_mask'].sum()} target "
                "positions. Pass a higher level, more data, or positions='all'."
            )
        canvas = np.where(noise_mask, noise_ids, rows["token_ids"])
        losses = _per_position(lm, {**rows, "token_ids": canvas}, rows["token_ids"], batch_size)
        results[level] = float(losses[counted].mean(dtype="float64"))
    return results


def _read_rows(lm, data):
    """Return all rows as arrays `(N, L)`, see `data.batches.BATCH_KEYS`."""
    if not (isinstance(data, dict) and "token_ids" in data):
        if lm.preprocessor is None:
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
        data = lm.preprocessor(data if isinstance(data, dict) else list(data))
    rows = lm.make_checker()(data)
    if not rows["target_mask"].any():
        raise ValueError(
            f"None of {len(rows['token_ids'])} rows has a target position within "
            f"{rows['token_ids'].shape[1]} tokens. Pass shorter prompts or a larger "
            "`sequence_length`."
        )
    return rows


def _draw_noise(rows, vocabulary_size, seed):
    """Return the level from which each position is corrupted, and the token it then holds."""
    length = rows["token_ids"].shape[1]
    contents = [
        np.concatenate([prefix, ids[real], np.flatnonzero(target)])
        for prefix, ids, real, target in zip(
            encoder_tokens(rows),
            rows["token_ids"],
            rows["padding_mask"],
            rows["target_mask"],
            strict=True,
        )
    ]
    thresholds, noise_ids = [], []
    for key in random.row_keys(contents):
        stream = random.generator("evaluation_positions", seed, *key)
        thresholds.append(random.uniform(stream, length))
        stream = random.generator("evaluation_tokens", seed, *key)
        noise_ids.append(stream.integers(0, vocabulary_size, length))
    return np.stack(thresholds), np.stack(noise_ids).astype("int32")


def _per_position(lm, rows, targets, batch_size):
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
    num_rows = len(targets)
    batch_size = min(batch_size, num_rows)
    losses = []
    for start in range(0, num_rows, batch_size):
        # The last batch is filled up with its first row, so that one shape is compiled.
        indices = np.arange(start, start + batch_size)
        indices = np.where(indices < num_rows, indices, start)
        losses.append(compiled(take_examples(rows, indices)))
    return np.concatenate(losses)[:num_rows]
