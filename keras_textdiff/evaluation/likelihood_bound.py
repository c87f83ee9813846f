"""A bound on the likelihood of text under a diffusion model.

Shapes: N rows, B batch, L length, V vocabulary, C positions of one chunk.
"""

import numpy as np
from keras import ops

from keras_textdiff.data.batches import take_examples
from keras_textdiff.evaluation.rows import (
    check_class,
    is_tokenized,
    perplexity,
    read_rows,
    report,
    row_keys,
    run_batches,
)
from keras_textdiff.evaluation.uniform_posterior import posterior_divergence
from keras_textdiff.models.diffusion_lm import DiffusionLM
from keras_textdiff.utils import random
from keras_textdiff.utils.checks import check_integer
from keras_textdiff.utils.compilation import while_loop

CHUNK_ELEMENTS = 2**23  # float32 logits alive at once; a few arrays of this size are made


def likelihood_bound(
    lm, data, *, num_steps=64, num_samples=16, batch_size=32, seed=0, progress=None
):
    """Bound the negative log-likelihood of targets given their prompts from above.

    Takes the model as a uniform-state diffusion: `num_steps` times from 1 (noise) to 0, at each
    of which a token survives with probability 1 - time, and the reverse step that follows from
    the denoiser's prediction of the clean tokens. The variational bound is

        KL(q(xT | x0) || uniform) + sum over steps of KL(q(xs | xt, x0) || p(xs | xt)),

    its first term 0, as nothing survives time 1, and its last one (step 1) the cross-entropy of
    the clean tokens. Each step's divergence is exact; steps and canvases are sampled. It holds
    for any denoiser, also one that does not know the time and was trained with another
    objective, and bounds the likelihood of ancestral sampling with these steps; other numbers
    of steps are other models.

    A sample belongs to the row, the seed and its number: results do not depend on the backend
    or on `batch_size`. Step 1 and even stretches of the others are sampled separately, at
    least twice each, which gives the standard error.

    Args:
        lm: `keras_textdiff.models.DiffusionLM`.
        data: text or token arrays, see `denoiser_cross_entropy`.
        num_steps: int T.
        num_samples: int, at least 2, denoiser calls per row at most.
        batch_size: int, canvases per denoiser call.
        seed: int of the noise.
        progress: callable `(stage, done, total)`, called after each batch, or None.

    Returns:
        Dict of "nats_per_token", the bound; "standard_error", of its sampling (the data are
        taken as given); "perplexity", exp of the bound; "num_tokens"; and "log_likelihoods",
        float64 array `(N,)`, each row's bound from below, in nats. Text counts as many tokens
        as response and end token have, for comparison with `log_likelihood`; the learned
        padding behind them adds to the bound but not to the count. Token arrays count all
        target positions.

    Raises:
        ValueError: for a model that is no `DiffusionLM`, or data that cannot be read.

    Example:
    ```python
    held_out = {"prompts": ["2 + 2 ="], "responses": [" 4"]}
    keras_textdiff.evaluation.likelihood_bound(lm, held_out)["nats_per_token"]
    ```

    Reference: Austin et al. 2021, arXiv 2107.03006, equation 1 and appendix A.2 (uniform).
    """
    check_class(
        lm,
        DiffusionLM,
        "The bound is for a DiffusionLM; `log_likelihood` is exact for autoregressive models.",
    )
    check_integer("num_steps", num_steps, minimum=1, maximum=2**20)
    check_integer("num_samples", num_samples, minimum=2)
    check_integer("batch_size", batch_size, minimum=1)
    check_integer("seed", seed)
    rows = read_rows(lm, data)
    keys = row_keys(rows)
    starts, widths, per_stratum = _strata(num_steps, num_samples)
    samples_per_row = len(starts) * per_stratum
    num_rows, length = rows["token_ids"].shape
    total = num_rows * samples_per_row

    def make_batch(indices):
        """Corrupt rows: sample number `index` is one step of one row."""
        row_indices, samples = np.divmod(indices, samples_per_row)
        batch = take_examples(rows, row_indices)
        steps, canvases = [], []
        for row, sample in enumerate(samples):
            stream = random.generator("likelihood", seed, *keys[row_indices[row]], step=int(sample))
            place, *thresholds = random.uniform(stream, 1 + length)
            noise_ids = stream.integers(0, lm.backbone.vocabulary_size, length)
            stratum = sample // per_stratum
            step = int(np.ceil(starts[stratum] + float(place) * widths[stratum]))
            noise_mask = (np.array(thresholds) < step / num_steps) & batch["target_mask"][row]
            steps.append(step)
            canvases.append(np.where(noise_mask, noise_ids, batch["token_ids"][row]))
        return {
            **batch,
            "token_ids": np.stack(canvases).astype("int32"),
            "targets": batch["token_ids"],
            "steps": np.array(steps, "float32"),
            "num_steps": np.full(len(steps), num_steps, "float32"),
        }

    compiled = lm._compiled_functions.get(
        "likelihood_bound", lm, lambda batch: _row_divergences(lm, batch)
    )
    sums = run_batches(
        compiled, make_batch, total, batch_size, report(progress, "denoising", total)
    )
    sums = sums.astype("float64").reshape(num_rows, len(starts), per_stratum)
    nats = (sums.mean(axis=2) * widths).sum(axis=1)  # (N,)
    variances = (sums.var(axis=2, ddof=1) / per_stratum * widths**2).sum()
    num_tokens = int(_counted(lm, rows, data).sum())
    nats_per_token = nats.sum() / num_tokens
    return {
        "nats_per_token": float(nats_per_token),
        "standard_error": float(np.sqrt(variances) / num_tokens),
        "perplexity": perplexity(nats_per_token),
        "num_tokens": num_tokens,
        "log_likelihoods": -nats,
    }


def _strata(num_steps, num_samples):
    """Return stretches of the steps (0, T], each sampled as often, and how often that is.

    Step 1, the cross-entropy, is a stretch of its own; where samples are plenty, so are all.
    """
    count = min(num_samples // 2, num_steps)
    edges = np.array([0.0, num_steps])
    if count > 1:
        edges = np.concatenate([[0.0], np.linspace(1.0, num_steps, count)])
    return edges[:-1], np.diff(edges), num_samples // count


def _counted(lm, rows, data):
    """Return the targets that count as tokens: of text, those up to the first end token."""
    if is_tokenized(data):
        return rows["target_mask"]
    ends = (rows["token_ids"] == lm.preprocessor.end_token_id) & rows["target_mask"]
    return rows["target_mask"] & (np.cumsum(ends, axis=1) - ends == 0)


def _row_divergences(lm, batch):
    """Return each row's divergence at its step, summed over target positions, `(B,)`."""
    hidden_states = lm.hidden_states(batch)
    rows, length, width = hidden_states.shape
    num_positions = rows * length
    chunk = min(max(1, CHUNK_ELEMENTS // lm.backbone.vocabulary_size), num_positions)
    num_chunks = -(-num_positions // chunk)

    def flat(values):
        values = ops.reshape(values, (num_positions, *values.shape[2:]))
        widths = [[0, num_chunks * chunk - num_positions]] + [[0, 0]] * (len(values.shape) - 1)
        return ops.pad(values, widths)

    def per_position(values):
        return ops.repeat(values[:, None], length, axis=1)

    hidden_states = flat(hidden_states)
    targets = flat(ops.cast(batch["targets"], "int32"))
    canvas = flat(ops.cast(batch["token_ids"], "int32"))
    steps = ops.maximum(flat(per_position(batch["steps"])), 1.0)  # the fill must not divide by 0
    num_steps = ops.maximum(flat(per_position(batch["num_steps"])), 1.0)

    def body(index, divergences):
        start = index * chunk

        def part(values):
            return ops.slice(values, (start,), (chunk,))

        logits = lm.backbone.logits(ops.slice(hidden_states, (start, 0), (chunk, width)))
        new = posterior_divergence(
            logits, part(targets), part(canvas), part(steps), part(num_steps)
        )
        return index + 1, ops.slice_update(divergences, (start,), new)

    divergences = ops.zeros_like(steps)
    _, divergences = while_loop(lambda index, _: index < num_chunks, body, (0, divergences))
    divergences = ops.reshape(divergences[:num_positions], (rows, length))
    mask = ops.cast(batch["target_mask"], "bool")
    return ops.sum(ops.where(mask, divergences, 0.0), axis=1)
