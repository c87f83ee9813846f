import keras
import numpy as np
import pytest

from keras_textdiff.training import WarmUp
from tests import tiny


def rates(schedule, num_steps=6):
    return [float(tiny.to_numpy(schedule(step))) for step in range(num_steps)]


def test_rises_to_a_number():
    np.testing.assert_allclose(rates(WarmUp(0.4, 4)), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4], rtol=1e-6)


def test_then_follows_a_schedule_from_its_beginning():
    linear = keras.optimizers.schedules.PolynomialDecay(0.4, 2, 0.0)
    np.testing.assert_allclose(rates(WarmUp(linear, 2)), [0.2, 0.4, 0.4, 0.2, 0, 0], atol=1e-7)


@pytest.mark.parametrize("schedule", [0.1, keras.optimizers.schedules.CosineDecay(0.1, 10)])
def test_config(schedule):
    schedule = WarmUp(schedule, 3)
    optimizer = keras.optimizers.Adam(schedule)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert rates(copy._learning_rate) == rates(schedule)


def test_errors():
    with pytest.raises(ValueError, match="num_steps"):
        WarmUp(0.1, 0)
