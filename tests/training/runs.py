"""A tiny run that can be killed and started again, in one process or in many."""

import keras
import numpy as np

from keras_textdiff.models import DiffusionLM, DiffusionLMPreprocessor
from keras_textdiff.training import run_state
from tests import tiny

WORDS = ["one", "two", "red", "the", "a", "big", "old", "dog", "hen"]
TEXTS = [f"{word} cat in the {word} hat" for word in WORDS]


class Killed(BaseException):
    """Ends a run where SIGKILL would."""


class KillAfter(keras.callbacks.Callback):
    """Ends a run after some steps of this process."""

    def __init__(self, num_steps):
        super().__init__()
        self._steps = iter(range(1, num_steps))  # no plain attribute: those are restored

    def on_train_batch_end(self, batch, logs=None):
        if next(self._steps, None) is None:
            raise Killed


def make_model(optimizer=None, sequence_length=10, **backbone):
    """A model with everything random: dropout, corruption, splits of documents."""
    preprocessor = DiffusionLMPreprocessor(tiny.tokenizer(), sequence_length=sequence_length)
    config = {"num_layers": 1, "hidden_dim": 16, "intermediate_dim": 16, "dropout": 0.2}
    model = DiffusionLM(tiny.backbone(scale=0.2, **{**config, **backbone}), preprocessor)
    if optimizer is None:
        optimizer = keras.optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=2)
    model.compile(optimizer, jit_compile=tiny.JIT)
    model.optimizer.build(model.trainable_variables)
    return model


def bits(model):
    """All variables, as arrays."""
    return [
        np.array(keras.ops.convert_to_numpy(variable))
        for variables in run_state.variable_groups(model).values()
        for variable in variables
    ]


def check_same(first, second):
    """Two results of `Run.__call__` are equal, bit for bit."""
    assert first[1] == second[1]
    for one, other in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(one, other)


class Run:
    """Runs `fit` from the same start each time, as a new process would.

    The model is compiled once: its variables are set back instead of building it anew.
    """

    def __init__(self, **options):
        keras.utils.set_random_seed(0)
        self.model = make_model(**options)
        self.start = run_state.copy_variables(self.model)

    def __call__(self, *callbacks, make_data=lambda: TEXTS, kill_after=None, **arguments):
        keras.utils.set_random_seed(1)
        run_state.assign_variables(self.model, self.start)
        arguments = {"epochs": 3, "verbose": 0, "batch_size": 3, **arguments}
        kill = [] if kill_after is None else [KillAfter(kill_after)]
        try:
            history = self.model.fit(make_data(), callbacks=[*callbacks, *kill], **arguments)
        except Killed:
            return None
        return bits(self.model), history.history
