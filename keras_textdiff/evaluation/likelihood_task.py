"""Held-out text, scored by its likelihood."""

import keras_hub

from keras_textdiff.evaluation.evaluation_task import EvaluationTask, TaskResult
from keras_textdiff.evaluation.likelihood_bound import likelihood_bound
from keras_textdiff.evaluation.log_likelihood import log_likelihood
from keras_textdiff.utils.checks import check_integer


class LikelihoodTask(EvaluationTask):
    """Scores held-out text: exactly for autoregressive models, by a bound for diffusion.

    Args:
        data: text or token arrays, as `lm.fit` takes them.
        num_steps: int, steps of the diffusion, see `likelihood_bound`.
        num_samples: int, denoiser calls per row, see `likelihood_bound`.

    Metrics: "nats_per_token" and "perplexity"; for a diffusion model both are bounds from above,
    and "standard_error" is that of the nats.

    Example:
    ```python
    task = keras_textdiff.evaluation.LikelihoodTask({"prompts": ["2 + 2 ="], "responses": [" 4"]})
    keras_textdiff.evaluation.evaluate(lm, task)
    ```
    """

    def __init__(self, data, *, num_steps=64, num_samples=16):
        self.data = data
        self.num_steps = check_integer("num_steps", num_steps, minimum=1)
        self.num_samples = check_integer("num_samples", num_samples, minimum=2)

    def run(self, lm, *, batch_size, seed, progress):
        """Score all rows, see `EvaluationTask`."""
        details = {}
        if isinstance(lm, keras_hub.models.CausalLM):
            result = log_likelihood(lm, self.data, batch_size=batch_size, progress=progress)
            details["kind"] = "exact"
        else:
            result = likelihood_bound(
                lm,
                self.data,
                num_steps=self.num_steps,
                num_samples=self.num_samples,
                batch_size=batch_size,
                seed=seed,
                progress=progress,
            )
            details["kind"] = "bound from above"
            details |= {"steps": self.num_steps, "samples per example": self.num_samples}
        details["examples"] = len(result.pop("log_likelihoods"))
        details["tokens"] = result.pop("num_tokens")
        return TaskResult(result, details, [])
