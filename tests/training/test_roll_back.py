import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.objectives import Sundae
from keras_textdiff.training import ExactResume, GuardedOptimizer, RollBack
from tests import tiny
from tests.training.runs import make_model

GOOD, BAD = ["the hat", "a cat", "is thin", "the cat"], ["one", "one a", "one the", "one hat"]
BANG = tiny.tokenizer()(["one"])[0][0]


class Explosive(Sundae):
    """SUNDAE, infinite for batches with the first token of the word "one"."""

    def __call__(self, denoiser, batch):
        loss, metrics = super().__call__(denoiser, batch)
        token_ids = ops.cast(batch["token_ids"], "int32")
        return loss * ops.where(ops.any(ops.equal(token_ids, BANG)), np.inf, 1.0), metrics


class Weights(keras.callbacks.Callback):
    """Notes a weight after each step."""

    def __init__(self):
        super().__init__()
        self._seen = []

    def on_train_batch_end(self, batch, logs=None):
        variable = self.model.trainable_variables[0]
        self._seen.append(np.array(tiny.to_numpy(variable.value)))


def train(folder, texts, every=2, **options):
    """Train one text a step, guarded; return what was seen, the callback and the model."""
    model = make_model()
    optimizer = GuardedOptimizer(keras.optimizers.SGD(0.1), spike_factor=None)
    model.compile(optimizer, objective=Explosive(num_unroll_steps=0), jit_compile=tiny.JIT)
    resume = ExactResume(folder, save_every_steps=every)
    back = RollBack(resume, **{"after_skipped": 3, "check_every": 1, **options})
    weights = Weights()
    model.fit(texts, batch_size=1, shuffle=False, verbose=0, callbacks=[resume, weights, back])
    return weights._seen, back, model


def test_goes_back_where_steps_in_a_row_were_skipped(tmp_path, capsys):
    # Saved after 2 steps and, skipped ones in it, after 4: that has the weights of step 3.
    seen, back, model = train(tmp_path, GOOD[:3] + BAD[:3] + GOOD, every=2)
    assert back.num_roll_backs == 1
    assert "with the data that come now" in capsys.readouterr().out
    for step in (3, 4, 5):  # skipped
        np.testing.assert_array_equal(seen[step], seen[2])
    assert not np.array_equal(seen[6], seen[2])  # trains on
    assert int(tiny.to_numpy(model.optimizer.num_skipped_in_a_row.value)) == 0


def test_goes_back_to_the_weights_of_the_checkpoint(tmp_path):
    texts = [*GOOD, GOOD[0], *BAD[:2]]
    seen, back, model = train(tmp_path, texts, every=4, after_skipped=2)
    assert back.num_roll_backs == 1
    weight = tiny.to_numpy(model.trainable_variables[0].value)
    np.testing.assert_array_equal(weight, seen[3])
    assert not np.array_equal(weight, seen[4])  # the step after the checkpoint is undone


def test_gives_up(tmp_path):
    with pytest.raises(RuntimeError, match="after 1 roll-backs"):
        train(tmp_path, GOOD[:2] + BAD + BAD, max_roll_backs=1)
    with pytest.raises(RuntimeError, match="no valid checkpoint"):
        train(tmp_path / "none", GOOD[:2] + BAD, every=100)


def test_refusals(tmp_path):
    resume = ExactResume(tmp_path)
    with pytest.raises(ValueError, match="must be an ExactResume"):
        RollBack("checkpoints")
    with pytest.raises(ValueError, match="after_skipped"):
        RollBack(resume, after_skipped=0)
    model = make_model()
    with pytest.raises(ValueError, match="counts the steps it skips"):
        model.fit(GOOD, batch_size=2, verbose=0, callbacks=[resume, RollBack(resume)])
    model.compile(GuardedOptimizer("sgd"), jit_compile=tiny.JIT)
    with pytest.raises(ValueError, match="among the callbacks"):
        model.fit(GOOD, batch_size=2, verbose=0, callbacks=[RollBack(resume)])
