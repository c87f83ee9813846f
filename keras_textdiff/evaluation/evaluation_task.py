"""What can be evaluated, and what comes of it."""

import abc
import dataclasses

from keras_textdiff.utils.registration import snake_case


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """What a task found.

    Attributes:
        metrics: dict from metric name to number.
        details: dict from name to what a reader needs beside the metrics.
        outputs: list of dicts, one per example, or empty.

    Example:
    ```python
    TaskResult(metrics={"length": 3.5}, details={"examples": 2}, outputs=[])
    ```
    """

    metrics: dict
    details: dict
    outputs: list


class EvaluationTask(abc.ABC):
    """A task that `evaluate` runs a model on; subclasses define `run`."""

    @property
    def name(self):
        """Name of the task, from its class."""
        return snake_case(type(self).__name__).removesuffix("_task")

    @abc.abstractmethod
    def run(self, lm, *, batch_size, seed, progress):
        """Evaluate a model.

        Args:
            lm: the model.
            batch_size: int, rows at a time.
            seed: int of all that is drawn.
            progress: callable `(stage, done, total)` or None.

        Returns:
            `TaskResult`.
        """
