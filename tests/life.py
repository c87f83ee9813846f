"""The life of a component: what must hold for every layer and model on every backend."""

import keras
import numpy as np
from keras import ops

from tests.tiny import to_numpy


def check_layer(layer, *arguments, tolerance=1e-5):
    """Config round trip, equal weights give equal outputs, compiled equals eager, bfloat16."""
    outputs = [to_numpy(x) for x in keras.tree.flatten(layer(*arguments))]
    config = layer.get_config()
    twin = type(layer).from_config(config)
    assert twin.get_config() == config
    twin(*arguments)
    assert [w.path for w in twin.weights] == [w.path for w in layer.weights]
    twin.set_weights(layer.get_weights())
    for first, second in zip(outputs, keras.tree.flatten(twin(*arguments)), strict=True):
        np.testing.assert_allclose(first, to_numpy(second), rtol=tolerance, atol=tolerance)
    compiled = compile_call(layer, arguments)
    for first, second in zip(outputs, keras.tree.flatten(compiled), strict=True):
        np.testing.assert_allclose(first, to_numpy(second), rtol=1e-4, atol=1e-4)
    half = type(layer).from_config({**config, "dtype": "bfloat16"})
    for output in keras.tree.flatten(half(*arguments)):
        assert keras.backend.standardize_dtype(output.dtype) == "bfloat16"
        assert np.isfinite(to_numpy(ops.cast(output, "float32"))).all()


def compile_call(layer, arguments):
    """Call `layer` through the backend's compiler; torch has none in use here."""
    if keras.config.backend() == "jax":
        import jax

        return jax.jit(lambda *args: layer(*args))(*arguments)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda *args: layer(*args), jit_compile=True)(*arguments)
    return layer(*arguments)


def check_weights_file(model, inputs, path):
    """Weights saved and loaded into a new model give equal outputs."""
    model.save_weights(path)
    twin = type(model).from_config(model.get_config())
    twin.load_weights(path)
    np.testing.assert_array_equal(to_numpy(model(inputs)), to_numpy(twin(inputs)))
