"""What Keras reads batches with."""

import keras
import pytest

from keras_textdiff.utils.data_adapter import adapt, original
from tests import tiny

ON_TENSORFLOW = keras.config.backend() == "tensorflow"


@pytest.mark.parametrize("loop", ["fit", "validation", "evaluate", "predict"])
def test_nothing_tunes_the_pipeline(loop, monkeypatch):
    lm = tiny.diffusion_lm()
    lm.compile(jit_compile=tiny.JIT)
    found, name = [], "fit" if loop == "validation" else loop
    read = getattr(keras.Model, name)

    def watch(model, x=None, **arguments):
        found.append(arguments["validation_data"] if loop == "validation" else x)
        return read(model, x, **arguments)

    monkeypatch.setattr(keras.Model, name, watch)
    rows = tiny.inputs(4)
    if loop == "validation":
        lm.fit(rows, validation_data=rows, batch_size=2, verbose=0)
    else:
        getattr(lm, name)(rows, batch_size=2, verbose=0)
    if ON_TENSORFLOW:
        assert found[0].get_tf_dataset().options().autotune.enabled is False
    else:
        assert original(found[0]) is found[0]


def test_the_batches_stay_what_they_are():
    batches = ((tiny.inputs(2),) for _ in range(1))
    assert original(adapt(batches)) is batches
