"""The exact likelihood of text under an autoregressive model.

Shapes: N rows, B batch, L length.
"""

import keras_hub
from keras import ops

from keras_textdiff.data.batches import take_examples
from keras_textdiff.evaluation.rows import (
    check_class,
    perplexity,
    read_rows,
    report,
    run_batches,
)
from keras_textdiff.models.causal_lm import CausalLM
from keras_textdiff.objectives.cross_entropy import cross_entropy
from keras_textdiff.utils.checks import check_integer
from keras_textdiff.utils.compilation import compile_function


def log_likelihood(lm, data, *, batch_size=32, progress=None):
    """Compute the log-likelihood of targets given their prompts.

    Args:
        lm: `keras_textdiff.models.CausalLM` or `keras_hub.models.CausalLM`.
        data: a list of strings; a dict of "prompts" and "responses", lists of strings; or a dict
            of arrays "token_ids" with "padding_mask", "prompt_mask" and "target_mask" as needed;
            as `keras_textdiff.models.CausalLM.fit` takes them.
        batch_size: int, rows per call; the logits of a KerasHub model are held for all of them.
        progress: callable `(stage, done, total)`, called after each batch, or None.

    Returns:
        Dict of "nats_per_token", the mean negative log-likelihood; "perplexity", its exponential;
        "num_tokens"; and "log_likelihoods", float64 array `(N,)`, of each row's targets together,
        in nats. Text counts a response and its end token. A token at the very start of a row has
        nothing before it and is left out.

    Raises:
        ValueError: for another model, or data that cannot be read.

    Example:
    ```python
    held_out = {"prompts": ["2 + 2 ="], "responses": [" 4"]}
    keras_textdiff.evaluation.log_likelihood(causal_lm, held_out)["perplexity"]
    ```
    """
    check_class(
        lm,
        keras_hub.models.CausalLM,
        "Only an autoregressive CausalLM has an exact likelihood; `likelihood_bound` is for a "
        "DiffusionLM.",
    )
    check_integer("batch_size", batch_size, minimum=1)
    rows = read_rows(lm, data)
    rows["target_mask"] = rows["target_mask"].copy()
    rows["target_mask"][:, 0] = False
    num_tokens = int(rows["target_mask"].sum())
    if not num_tokens:
        raise ValueError("Every row has one token alone, which has nothing before it.")
    losses = _own_losses if isinstance(lm, CausalLM) else _keras_hub_losses

    def row_sums(batch):
        mask = ops.cast(batch["target_mask"], "bool")[:, 1:]
        return ops.sum(ops.where(mask, losses(lm, batch), 0.0), axis=1)

    num_rows = len(rows["token_ids"])
    nats = run_batches(
        compile_function(lm, row_sums),
        lambda indices: take_examples(rows, indices),
        num_rows,
        batch_size,
        report(progress, "scoring", num_rows),
    ).astype("float64")
    nats_per_token = nats.sum() / num_tokens
    return {
        "nats_per_token": float(nats_per_token),
        "perplexity": perplexity(nats_per_token),
        "num_tokens": num_tokens,
        "log_likelihoods": -nats,
    }


def _own_losses(lm, batch):
    """Return the cross-entropy of each token but the first, `(B, L - 1)`."""
    hidden_states = lm.hidden_states(batch)
    rows, length, width = hidden_states.shape
    targets = ops.reshape(ops.cast(batch["token_ids"], "int32")[:, 1:], (-1,))
    result = cross_entropy(
        lm.backbone.token_embedding,
        ops.reshape(hidden_states[:, :-1], (-1, width)),
        targets,
        ops.zeros_like(targets, dtype="float32"),
        differentiate=False,
    )
    return ops.reshape(result.per_position, (rows, length - 1))


def _keras_hub_losses(lm, batch):
    """Return the cross-entropy of each token but the first, `(B, L - 1)`."""
    inputs = {name: batch[name] for name in ("token_ids", "padding_mask")}
    logits = ops.cast(lm(inputs)[:, :-1], "float32")
    targets = ops.cast(batch["token_ids"], "int32")[:, 1:, None]
    chosen = ops.take_along_axis(logits, targets, axis=-1)[..., 0]
    return ops.logsumexp(logits, axis=-1) - chosen
