"""Single steps: `train_on_batch` and its siblings, on what `fit` takes."""

import sys

import keras
import numpy as np
from keras import ops, tree

from keras_textdiff.data.batches import num_examples
from keras_textdiff.models.task_checks import check_fit_arguments, check_optimizer
from keras_textdiff.utils.replicas import averaged_gradients


class OnBatch:
    """Single steps of a `TextTask`, each on one batch that is tokenized and checked as in `fit`.

    A plain mixin that stands before a `keras.Model`. `x` is a list of strings, or a dict of
    "prompts" and "responses" or of "token_ids" and masks, see `TextTask.fit`; all of it is one
    batch. Plain documents are split as in a first epoch.

    Example:
    ```python
    loss, *metrics = lm.train_on_batch({"prompts": ["2 + 2 ="], "responses": [" 4"]})
    ```
    """

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """Train one step; return the loss and metrics as a list, or as a dict.

        Args:
            x: the examples of the batch, see the class.
            y: must be None.
            sample_weight: must be None; "target_mask" says what counts.
            class_weight: must be None.
            return_dict: bool.

        Raises:
            ValueError: before the step, for anything that cannot be trained on.
        """
        check_fit_arguments(y, {"sample_weight": sample_weight, "class_weight": class_weight})
        self._check_compiled("train_on_batch")
        check_optimizer(self.optimizer, self.trainable_variables)
        with self._state_kept(), averaged_gradients(self):
            batch = self._one_batch(x, training=True)
            return keras.Model.train_on_batch(self, batch, return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """Return the loss and metrics on one batch; the same noise is drawn every time.

        Args:
            x: the examples of the batch, see the class.
            y: must be None.
            sample_weight: must be None.
            return_dict: bool.

        Raises:
            ValueError: before the step, for anything that cannot be evaluated on.
        """
        check_fit_arguments(y, {"sample_weight": sample_weight})
        self._check_compiled("test_on_batch")
        with self._same_noise(), self._state_kept():
            batch = self._one_batch(x)
            return keras.Model.test_on_batch(self, batch, return_dict=return_dict)

    def predict_on_batch(self, x):
        """Return the logits `(N, L, V)` of one denoiser call on one batch, see the class."""
        batch = self._one_batch(x)
        del batch["target_mask"]
        with self._state_kept():
            logits = keras.Model.predict_on_batch(self, batch)
        return logits[: num_examples(x)]  # without rows that were added for the devices

    def _one_batch(self, x, training=False):
        """Return the examples `x` as one batch of tensors."""
        if not isinstance(x, (list, tuple, dict, np.ndarray, str, bytes)):
            raise ValueError(
                "A batch is a list of strings, or a dict of 'prompts' and 'responses' or of "
                f"'token_ids' and masks. Got a {type(x).__name__}. Pass a source of batches to "
                "`fit`, `evaluate` or `predict`."
            )
        batches, checker = self._make_batches(x, batch_size=sys.maxsize, training=training)
        batch = batches[0]
        checker.warn()
        return tree.map_structure(ops.convert_to_tensor, batch)
