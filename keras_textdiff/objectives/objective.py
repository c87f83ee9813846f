"""What every training objective has in common.

Shapes: B batch, L length, D hidden size, V vocabulary.
"""

import abc
import dataclasses
from typing import Any

import keras
from keras import ops

from keras_textdiff.objectives.cross_entropy import cross_entropy


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A model as objectives see it.

    Attributes:
        hidden_states: callable, `(token_ids (B, L)) -> (B, L, D)`; the batch's masks are bound.
        embedding: `keras.layers.ReversibleEmbedding` that turns hidden states into logits.
        seed: `keras.random.SeedGenerator` for all that is drawn.
        training: bool; gradients are needed where True.
    """

    hidden_states: Any
    embedding: Any
    seed: Any
    training: bool

    @property
    def vocabulary_size(self):
        """Number of token ids V."""
        return self.embedding.input_dim

    def cross_entropy(self, hidden_states, targets, weights, temperature=0.0):
        """Score all positions of a batch.

        Args:
            hidden_states: float tensor `(B, L, D)`.
            targets: int tensor `(B, L)`.
            weights: float tensor `(B, L)`, weights in the loss.
            temperature: float, of the drawn candidates; 0 for the most likely ones.

        Returns:
            `(loss, per_position, candidates)`: a scalar, and `(B, L)` tensors.
        """
        shape = ops.shape(targets)
        uniforms = None
        if temperature > 0:
            uniforms = keras.random.uniform(shape, 1e-7, 1 - 1e-7, seed=self.seed)
            uniforms = ops.reshape(uniforms, (-1,))
        result = cross_entropy(
            self.embedding,
            ops.reshape(hidden_states, (-1, hidden_states.shape[-1])),
            ops.reshape(targets, (-1,)),
            ops.reshape(weights, (-1,)),
            uniforms=uniforms,
            temperature=temperature,
            differentiate=self.training,
        )
        per_position = ops.reshape(result.per_position, shape)
        return result.loss, per_position, ops.reshape(result.candidates, shape)


class Objective(abc.ABC):
    """A training loss: corrupts a batch, calls the denoiser and scores it.

    Subclasses set `metric_names` and, where not any will do, `attention_modes` (under which the
    model neither sees what it is to predict nor lacks what it needs), and define `__call__` and
    `get_config`. Objectives hold options only; weights and random state belong to the model.
    """

    metric_names = ()
    attention_modes = None

    @abc.abstractmethod
    def __call__(self, denoiser, batch):
        """Compute the loss of one batch.

        Args:
            denoiser: `Denoiser`.
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


def masked_mean_weights(mask):
    """Return weights that average over the True positions of `mask`, and their count.

    Without a True position all weights are 0, and so is the loss.
    """
    mask = ops.cast(mask, "float32")
    count = ops.sum(mask)
    return mask / ops.maximum(count, 1.0), count
