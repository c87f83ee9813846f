"""Argmax-unrolled decoding: look again at what the model was least sure of."""

from keras import ops

from keras_textdiff.samplers.sampler import Sampler, draw_tokens
from keras_textdiff.utils.categorical import log_total
from keras_textdiff.utils.checks import check_number
from keras_textdiff.utils.registration import register


@register
class ArgmaxUnrolledSampler(Sampler):
    """Takes the most likely tokens and re-predicts the least confident ones.

    The first step draws from the tempered logits. From the second step on, all positions take
    the most likely token; the least confident share of them is predicted once more from that
    canvas, by a second denoiser call.

    Args:
        num_denoising_steps: int, see `Sampler`; all but the first call the denoiser twice.
        temperature: float of the first step, see `Sampler`.
        num_canvases: int, see `Sampler`.
        unrolled_proportion: float in (0, 1], share of a row's target positions that are
            predicted again.
        stop_when_unchanged: bool, see `Sampler`.

    Example:
    ```python
    lm.compile(sampler="argmax_unrolled")
    ```

    Reference: Savinov et al. 2022, arXiv 2112.06749, section 2.4.
    """

    def __init__(
        self,
        num_denoising_steps=10,
        temperature=0.2,
        num_canvases=8,
        unrolled_proportion=0.3,
        stop_when_unchanged=True,
    ):
        super().__init__(num_denoising_steps, temperature, num_canvases, stop_when_unchanged)
        self.unrolled_proportion = check_number(
            "unrolled_proportion", unrolled_proportion, minimum=1e-6, maximum=1
        )

    def update(self, step, canvas, logits, log_totals, noise, target_mask, denoiser):
        """Draw at the first step, unroll at the others."""

        def draw():
            return draw_tokens(logits, log_totals, noise["tokens"], self.temperature)

        def unroll():
            tokens, confidence = draw_tokens(logits, log_totals, noise["tokens"], 0.0)
            canvas_of_tokens = ops.where(target_mask, tokens, canvas)
            again = denoiser(canvas_of_tokens)
            second, second_confidence = draw_tokens(again, log_total(again), noise["tokens"], 0.0)
            # Rank target positions by confidence; ties go to the earlier position.
            ranked = ops.where(target_mask, confidence, 2.0)
            order = ops.argsort(ranked, axis=-1)
            ranks = ops.argsort(order, axis=-1)
            count = ops.sum(ops.cast(target_mask, "float32"), axis=-1, keepdims=True)
            chosen = ops.cast(ranks, "float32") < ops.ceil(self.unrolled_proportion * count)
            return (
                ops.where(chosen, second, tokens),
                ops.where(chosen, second_confidence, confidence),
            )

        return ops.cond(step < 1, draw, unroll)

    def get_config(self):
        """Return the constructor's arguments."""
        return {**super().get_config(), "unrolled_proportion": self.unrolled_proportion}
