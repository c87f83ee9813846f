"""Held-out text, scored by denoising it once."""

from keras_textdiff.data.batches import num_examples
from keras_textdiff.evaluation.denoiser_cross_entropy import denoiser_cross_entropy
from keras_textdiff.evaluation.evaluation_task import EvaluationTask, TaskResult


class CrossEntropyTask(EvaluationTask):
    """Measures `denoiser_cross_entropy` at fixed noise levels.

    Args:
        data: text or token arrays, as `lm.fit` takes them.
        noise_levels: floats in [0, 1], see `denoiser_cross_entropy`.
        positions: "all" or "corrupted", see `denoiser_cross_entropy`.

    Metrics: "cross_entropy@level" for each noise level, nats per token.

    Example:
    ```python
    task = keras_textdiff.evaluation.CrossEntropyTask(["some held-out text"])
    keras_textdiff.evaluation.evaluate(lm, task)
    ```
    """

    def __init__(self, data, *, noise_levels=(0.1, 0.3, 0.5, 0.7, 0.9), positions="all"):
        self.data = data
        self.noise_levels = tuple(noise_levels)
        self.positions = positions

    def run(self, lm, *, batch_size, seed, progress):
        """Denoise all rows at each level, see `EvaluationTask`."""
        results = denoiser_cross_entropy(
            lm,
            self.data,
            self.noise_levels,
            positions=self.positions,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        metrics = {f"cross_entropy@{level:g}": value for level, value in results.items()}
        details = {"positions": self.positions, "examples": num_examples(self.data)}
        return TaskResult(metrics, details, [])
