"""The SUNDAE objective: denoise a corrupted canvas, then the model's own answer."""

from keras import ops

from keras_textdiff import corruption as corruptions
from keras_textdiff.objectives.cross_entropy import masked_mean_weights
from keras_textdiff.objectives.objective import Objective
from keras_textdiff.utils import registration
from keras_textdiff.utils.checks import check_integer, check_number


@registration.register
class Sundae(Objective):
    """Step-unrolled denoising: L1 on the corrupted canvas plus one loss per unroll.

    The target is corrupted; the model predicts the clean target everywhere, corrupted or not,
    padding included where `target_mask` covers it (so the model learns length). Its candidates
    become the next canvas, without a gradient through them and with the prefix as it was, and
    are denoised again.

    Metrics: "loss_first" (corrupted canvas), "loss_unrolled" (mean over unrolls), "accuracy"
    (on corrupted tokens, first step), "supervised_tokens".

    Args:
        num_unroll_steps: int, unrolls after the first step; 1 in the AR2Diff paper, 3 on text8
            in the SUNDAE paper, 0 for plain denoising.
        unroll_temperature: float; candidates are the most likely tokens at 0, else drawn from
            softmax(logits / temperature). 0 was best in the AR2Diff paper; SUNDAE used 1.
        corruption: name, config or object, see `keras_textdiff.corruption`.

    Raises:
        ValueError: for a negative number of unrolls or a negative temperature.

    Example:
    ```python
    lm.compile(objective=keras_textdiff.objectives.Sundae(num_unroll_steps=3))
    ```

    Reference: Savinov et al. 2022, arXiv 2112.06749, equations 2 to 4; Han et al. 2024,
    arXiv 2401.17181, section 3.1.
    """

    metric_names = ("loss_first", "loss_unrolled", "accuracy", "supervised_tokens")
    attention_modes = ("bidirectional", "prefix", "block")

    def __init__(self, num_unroll_steps=1, unroll_temperature=0.0, corruption="uniform"):
        self.num_unroll_steps = check_integer("num_unroll_steps", num_unroll_steps, minimum=0)
        self.unroll_temperature = check_number("unroll_temperature", unroll_temperature, minimum=0)
        self.corruption = corruptions.get(corruption)

    @property
    def num_passes(self):
        """Denoiser calls of a step: the corrupted canvas and each unroll."""
        return self.num_unroll_steps + 1

    def __call__(self, denoiser, batch):
        """Compute the sum of the steps' mean cross-entropies over target positions, in nats."""
        target = ops.cast(batch["token_ids"], "int32")  # (B, L)
        target_mask = ops.cast(batch["target_mask"], "bool")
        weights, count = masked_mean_weights(target_mask)
        canvas, noise_mask = self.corruption(
            target, target_mask, denoiser.vocabulary_size, denoiser.seed
        )
        losses = []
        for step in range(self.num_unroll_steps + 1):
            last = step == self.num_unroll_steps
            loss, _, candidates = denoiser.cross_entropy(
                denoiser.hidden_states(canvas),
                target,
                weights,
                temperature=0.0 if last else self.unroll_temperature,
            )
            losses.append(loss)
            if step == 0:
                correct = ops.logical_and(ops.equal(candidates, target), noise_mask)
            if not last:
                canvas = ops.where(target_mask, candidates, target)
        unrolled = sum(losses[1:], start=ops.zeros_like(count)) / max(self.num_unroll_steps, 1)
        return sum(losses), {
            "loss_first": (losses[0] * count, count),
            "loss_unrolled": (unrolled * count, count),
            "accuracy": (
                ops.sum(ops.cast(correct, "float32")),
                ops.sum(ops.cast(noise_mask, "float32")),
            ),
            "supervised_tokens": (count, ops.ones_like(count)),
        }

    def get_config(self):
        """Return the constructor's arguments."""
        return {
            "num_unroll_steps": self.num_unroll_steps,
            "unroll_temperature": self.unroll_temperature,
            "corruption": registration.serialize(self.corruption),
        }
