"""Logits of whole data sets: `predict`, on one device or many."""

import contextlib
import warnings

import keras
import numpy as np

from keras_textdiff.data.batches import fill_rows
from keras_textdiff.data.make_batches import in_memory
from keras_textdiff.utils import processes
from keras_textdiff.utils.data_adapter import adapt


class Prediction:
    """Prediction of a `TextTask`; a plain mixin that stands before a `keras.Model`."""

    def predict(self, x, *, batch_size=None, steps=None, **kwargs):
        """Return the logits `(N, L, V)` of one denoiser call on each example, see `fit`."""
        if processes.row_part()[1] > 1 and not in_memory(x):
            raise ValueError(
                "With several processes, `predict` takes examples in memory, the same in each: a "
                f"list or a dict. Got a {type(x).__name__}."
            )
        batches, _ = self._make_batches(x, batch_size=batch_size, num_steps=steps, fill=False)
        is_row = []  # False where a row was added for the devices

        def filled():
            for batch in _unpack_batches(batches):
                num_rows = len(batch["token_ids"])
                batch = fill_rows(batch, processes.num_row_groups())
                is_row.extend(index < num_rows for index in range(len(batch["token_ids"])))
                if keras.config.backend() == "jax":  # elsewhere each process predicts all
                    batch = processes.own_rows(batch)
                yield ({key: value for key, value in batch.items() if key != "target_mask"},)

        with no_surprise_at_the_end(steps), self._state_kept(batches):
            logits = keras.Model.predict(self, adapt(filled()), steps=steps, **kwargs)
        return logits[np.array(is_row[: len(logits)])]

    def predict_step(self, *args):
        """Return the logits of a batch, those of all processes; see `keras.Model.predict`."""
        outputs = super().predict_step(*args)
        if keras.config.backend() != "jax":
            return outputs
        logits, non_trainable_variables = outputs
        return processes.on_all_devices(logits), non_trainable_variables


@contextlib.contextmanager
def no_surprise_at_the_end(steps):
    """Silence Keras where a dataset of unknown length ends and no length was promised."""
    with warnings.catch_warnings():
        if steps is None:
            warnings.filterwarnings("ignore", message="Your input ran out of data")
        yield


def _unpack_batches(batches):
    if isinstance(batches, keras.utils.PyDataset):
        iterator = (batches[index] for index in range(len(batches)))
    else:
        iterator = iter(batches)
    for batch in iterator:
        yield batch[0] if isinstance(batch, tuple) else batch
