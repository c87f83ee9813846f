import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.utils.dense import SMALLEST_ONEDNN_PRODUCT, dense
from tests.tiny import to_numpy

N, K, M = 32, 160, 256  # as large as what goes to oneDNN on torch
assert N * K * M > SMALLEST_ONEDNN_PRODUCT


JIT = [True, False] if keras.config.backend() == "tensorflow" else ["auto"]


def erf(x):
    return np.vectorize(math.erf)(x)


EXPECTED = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


@pytest.mark.parametrize("shape", [(N, K, M), (3, 5, 7), (1, K, M)])
@pytest.mark.parametrize("activation", EXPECTED)
@pytest.mark.parametrize("use_bias", [True, False])
def test_it_equals_numpy(shape, activation, use_bias):
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns)) / 8
    bias = rng.normal(size=columns) if use_bias else None
    tensors = [
        None if a is None else ops.convert_to_tensor(a, "float32") for a in (x, kernel, bias)
    ]
    expected = EXPECTED[activation](x @ kernel + (bias if use_bias else 0))
    output = to_numpy(dense(*tensors, activation))
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", EXPECTED)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("jit_compile", JIT)
def test_gradients_equal_those_of_keras(activation, use_bias, jit_compile):
    class Product(keras.layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def build(self, input_shape):
            make = keras.initializers.RandomNormal
            self.kernel = self.add_weight(shape=(K, M), initializer=make(stddev=0.1, seed=1))
            self.bias = None
            if use_bias:
                self.bias = self.add_weight(shape=(M,), initializer=make(stddev=0.1, seed=2))

        def call(self, x, training=None):
            return self.function(x, self.kernel, self.bias, training)

    def plain(x, kernel, bias, training):
        x = ops.matmul(x, kernel) + (0 if bias is None else bias)
        if activation == "gelu_tanh":
            return keras.activations.gelu(x, approximate=True)
        return keras.activations.get(activation or "linear")(x)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, K)).astype("float32"), rng.normal(size=(N, M)).astype("float32")
    weights = []
    for function in (plain, lambda *tensors: dense(*tensors[:3], activation, tensors[3])):
        # The first layer's weights change by the gradient of the second one's rows.
        first = keras.layers.Dense(K, kernel_initializer="identity")
        model = keras.Sequential([first, Product(function)])
        model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=jit_compile)
        model.train_on_batch(x, y)
        weights.append(model.get_weights())
    for expected, actual in zip(*weights, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="Others do so in any call.")
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_training_on_tensorflow_rounds_an_activation_once(activation):
    import tensorflow as tf

    rows = tf.cast(np.random.default_rng(0).normal(size=(N, M)), "bfloat16")
    identity = tf.eye(M, dtype="bfloat16")
    train = tf.function(lambda rows: dense(rows, identity, None, activation, training=True))
    expected = tf.cast(EXPECTED[activation](rows.numpy().astype("float64")), "bfloat16")
    output = to_numpy(tf.cast(train(rows), "float32"))
    # One step of bfloat16 where float32 and float64 fall on two sides of a tie.
    np.testing.assert_allclose(output, tf.cast(expected, "float32"), rtol=2**-7, atol=1e-6)
    assert np.mean(output == tf.cast(expected, "float32").numpy()) > 0.99
