import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.objectives import Sundae
from keras_textdiff.training import GuardedOptimizer
from tests import tiny
from tests.training.runs import TEXTS, make_model


def make(inner=None, **kwargs):
    """A guarded optimizer, built for one variable of two zeros."""
    variable = keras.Variable(np.zeros(2, "float32"))
    optimizer = GuardedOptimizer(inner or keras.optimizers.SGD(1.0, momentum=0.5), **kwargs)
    optimizer.build([variable])
    return optimizer, variable


def step(optimizer, variable, gradient):
    """Apply a gradient as the backend's trainer does, and return the variable's value."""
    gradient = ops.convert_to_tensor(np.asarray(gradient, "float32"))
    if keras.config.backend() == "jax":
        values = [v.value for v in optimizer.variables]
        updated, values = optimizer.stateless_apply(values, [gradient], [variable.value])
        variable.assign(updated[0])
        for v, value in zip(optimizer.variables, values, strict=True):
            v.assign(value)
    else:
        optimizer.apply([gradient], [variable])
    return tiny.to_numpy(variable.value)


def number(variable):
    return float(tiny.to_numpy(variable.value))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    optimizer, variable = make(spike_factor=None)
    before = step(optimizer, variable, [1.0, 1.0])
    inner = [tiny.to_numpy(v.value) for v in optimizer.inner_optimizer.variables]
    np.testing.assert_array_equal(step(optimizer, variable, [1.0, bad]), before)
    for v, value in zip(optimizer.inner_optimizer.variables, inner, strict=True):
        np.testing.assert_array_equal(tiny.to_numpy(v.value), value)
    assert number(optimizer.num_skipped) == number(optimizer.num_skipped_in_a_row) == 1
    assert int(optimizer.iterations) == 1
    # Momentum goes on from where it was: -1, then -1 - 1.5.
    np.testing.assert_allclose(step(optimizer, variable, [1.0, 1.0]), [-2.5, -2.5])
    assert number(optimizer.num_skipped) == 1 and number(optimizer.num_skipped_in_a_row) == 0


def test_spikes_are_skipped_after_the_warm_up():
    optimizer, variable = make(spike_factor=5.0, warm_up_steps=3)
    for _ in range(3):
        before = step(optimizer, variable, [3.0, 4.0])  # norm 5
    assert number(optimizer.mean_norm) == pytest.approx(5.0)
    np.testing.assert_array_equal(step(optimizer, variable, [0.0, 25.1]), before)
    assert number(optimizer.num_skipped) == 1
    assert not np.array_equal(step(optimizer, variable, [0.0, 24.9]), before)
    # 49 / 50 of the old mean once there are that many steps; a quarter after three.
    assert number(optimizer.mean_norm) == pytest.approx(5.0 * 3 / 4 + 24.9 / 4)
    early, other = make(spike_factor=5.0, warm_up_steps=3)
    step(early, other, [1.0, 0.0])
    assert not np.array_equal(step(early, other, [100.0, 0.0]), [-1.0, 0.0])


def test_training_is_the_same_without_anything_bad():
    histories = []
    for guard in (False, True):
        keras.utils.set_random_seed(0)
        inner = keras.optimizers.Adam(0.01, global_clipnorm=1.0, use_ema=True)
        model = make_model(GuardedOptimizer(inner, spike_factor=None) if guard else inner)
        history = model.fit(TEXTS, batch_size=3, epochs=2, shuffle=False, verbose=0)
        histories.append(history.history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-5)


class Explosive(Sundae):
    """SUNDAE, infinite for batches with the first token of the word "one"."""

    def __call__(self, denoiser, batch):
        loss, metrics = super().__call__(denoiser, batch)
        token_ids = ops.cast(batch["token_ids"], "int32")
        return loss * ops.where(ops.any(ops.equal(token_ids, BANG)), np.inf, 1.0), metrics


BANG = tiny.tokenizer()(["one"])[0][0]


@pytest.mark.parametrize("guarded", [True, False])
def test_a_run_survives_a_batch_that_explodes(guarded):
    model = make_model()
    inner = keras.optimizers.Adam(0.01)
    optimizer = GuardedOptimizer(inner) if guarded else inner
    model.compile(optimizer, objective=Explosive(), jit_compile=tiny.JIT)
    texts = ["the hat", "a cat", "is thin", "one", "the cat", "the big"]
    model.fit(texts, batch_size=2, shuffle=False, verbose=0)
    finite = all(np.isfinite(tiny.to_numpy(v.value)).all() for v in model.trainable_variables)
    assert finite == guarded
    if guarded:
        assert number(model.optimizer.num_skipped) == 1
        assert int(model.optimizer.iterations) == 2


def test_config():
    inner = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-3, 100))
    optimizer = GuardedOptimizer(inner, spike_factor=3.0, warm_up_steps=7, momentum=0.5)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert isinstance(copy.inner_optimizer, keras.optimizers.AdamW)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spike_factor": 0.5}, "spike_factor"),
        ({"warm_up_steps": 0}, "warm_up_steps"),
        ({"momentum": 1.0}, "momentum"),
        ({"clipnorm": 1.0}, "clipnorm"),
        ({"optimizer": GuardedOptimizer("sgd")}, "already"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        GuardedOptimizer(**{"optimizer": "adam", **arguments})
