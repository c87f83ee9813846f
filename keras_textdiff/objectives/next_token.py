"""Next-token prediction, the autoregressive baseline."""

from keras import ops

from keras_textdiff.backbones.attention_masks import segment_starts
from keras_textdiff.objectives.cross_entropy import masked_mean_weights
from keras_textdiff.objectives.objective import Objective
from keras_textdiff.utils.registration import register


@register
class NextToken(Objective):
    """Cross-entropy of each target token given those before it.

    The model must attend causally (or to the prefix and causally).

    Metrics: "accuracy" over target tokens, "supervised_tokens".

    Example:
    ```python
    causal_lm.compile(objective="next_token", optimizer="adamw")
    ```
    """

    metric_names = ("accuracy", "supervised_tokens")
    attention_modes = ("causal", "prefix")

    def __call__(self, denoiser, batch):
        """Compute the mean cross-entropy over target tokens, in nats."""
        token_ids = ops.cast(batch["token_ids"], "int32")
        hidden_states = denoiser.hidden_states(token_ids)
        # Position i predicts the token at i + 1; the last position predicts nothing.
        targets = ops.concatenate([token_ids[:, 1:], token_ids[:, :1]], axis=1)
        mask = ops.cast(batch["target_mask"], "bool")
        if "segment_ids" in batch:  # no document predicts the next one's first token
            starts = segment_starts(ops.convert_to_tensor(batch["segment_ids"]))
            mask = ops.logical_and(mask, ops.logical_not(starts))
        mask = ops.concatenate([mask[:, 1:], ops.zeros_like(mask[:, :1])], axis=1)
        weights, count = masked_mean_weights(mask)
        loss, _, candidates = denoiser.cross_entropy(hidden_states, targets, weights)
        correct = ops.logical_and(ops.equal(candidates, targets), mask)
        return loss, {
            "accuracy": (
                ops.sum(ops.cast(correct, "float32")),
                ops.sum(ops.cast(mask, "float32")),
            ),
            "supervised_tokens": (count, ops.ones_like(count)),
        }

    def get_config(self):
        """Return the constructor's arguments."""
        return {}
