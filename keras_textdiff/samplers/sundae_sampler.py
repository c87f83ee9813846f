"""Low-temperature sampling of all or some positions at each step."""

from keras import ops

from keras_textdiff.samplers.sampler import Sampler, draw_tokens
from keras_textdiff.utils.checks import check_number
from keras_textdiff.utils.registration import register


@register
class SundaeSampler(Sampler):
    """Draws target positions from the tempered logits at every step.

    Args:
        num_denoising_steps: int, see `Sampler`.
        temperature: float, see `Sampler`.
        num_canvases: int, see `Sampler`.
        update_proportion: float in (0, 1]; each position is updated with this probability at
            each step. 1 in the AR2Diff paper; SUNDAE used 0.3 with temperature 0.8 on text8.
        stop_when_unchanged: bool, see `Sampler`. With an `update_proportion` below 1 a step can
            leave a canvas unchanged by chance, so a row stops only when no position would have
            changed.

    Example:
    ```python
    lm.compile(sampler=keras_textdiff.samplers.SundaeSampler(num_denoising_steps=20))
    ```

    Reference: Han et al. 2024, arXiv 2401.17181, section 3.2; Savinov et al. 2022,
    arXiv 2112.06749, section 3.
    """

    needs_confidence = False

    def __init__(
        self,
        num_denoising_steps=10,
        temperature=0.2,
        num_canvases=8,
        update_proportion=1.0,
        stop_when_unchanged=True,
    ):
        super().__init__(num_denoising_steps, temperature, num_canvases, stop_when_unchanged)
        self.update_proportion = check_number(
            "update_proportion", update_proportion, minimum=1e-6, maximum=1
        )
        if self.update_proportion < 1:
            self.noise_streams = ("tokens", "updates")

    def update(self, step, canvas, logits, log_totals, noise, target_mask, denoiser):
        """Draw candidates and keep the updated share of them."""
        candidates, confidence = draw_tokens(logits, log_totals, noise["tokens"], self.temperature)
        if self.update_proportion == 1:
            return candidates, confidence
        differs = ops.logical_and(ops.not_equal(candidates, canvas), target_mask)
        updates = noise["updates"] < self.update_proportion
        # Where none of the differing positions is picked, the first of them is.
        picked = ops.any(ops.logical_and(differs, updates), axis=-1, keepdims=True)
        ordinal = ops.cumsum(ops.cast(differs, "int32"), axis=-1)
        first = ops.logical_and(differs, ordinal == 1)
        updates = ops.logical_or(updates, ops.logical_and(ops.logical_not(picked), first))
        return ops.where(updates, candidates, canvas), confidence

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "update_proportion": self.update_proportion}
