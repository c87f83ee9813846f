"""What every training objective has in common.

Shapes: B batch, L length, D hidden size, V vocabulary.
"""

import abc


class Objective(abc.ABC):
    """A training loss: corrupts a batch, calls the denoiser and scores it.

    Subclasses set `metric_names` and, where not any will do, `attention_modes` (under which the
    model neither sees what it is to predict nor lacks what it needs), and define `__call__` and
    `get_config`. Objectives hold options only; weights and random state belong to the model.

    Attributes:
        num_passes: int, denoiser calls of a step, each with a gradient; 1 unless a subclass says
            more. Estimates of compute and memory use it.
    """

    metric_names = ()
    attention_modes = None
    num_passes = 1

    @abc.abstractmethod
    def __call__(self, denoiser, batch):
        """Compute the loss of one batch.

        Args:
            denoiser: `Denoiser`, see `objectives.cross_entropy`.
            batch: dict of "token_ids" int `(B, L)` and the bool masks "padding_mask" (True
                where real) and "target_mask" (True where the loss counts), each `(B, L)`; packed
                rows add int "segment_ids" `(B, L)`, which document a position belongs to
                (0 for padding).

        Returns:
            `(loss, metrics)`: a scalar, and a dict from metric name to `(sum, count)`.
        """

    @abc.abstractmethod
    def get_config(self):
        """Return the constructor's arguments."""
