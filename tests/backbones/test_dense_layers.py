"""Our dense layers against Keras' own with the same weights, quantized to int8."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.backbones.layers import dense
from tests.tiny import to_numpy

X = np.random.default_rng(0).normal(size=(2, 6, 16)).astype("float32")
HEADS = np.random.default_rng(1).normal(size=(2, 6, 4, 8)).astype("float32")
ROWS = X.reshape(-1, 16)


def embedding_of(classes, **kwargs):
    return classes.ReversibleEmbedding(50, 16, **kwargs)


# What makes the layer from a module of layers, inputs, and what its call needs beside.
LAYERS = {
    "dense": (lambda classes: classes.Dense(12), ROWS, {}),
    "heads": (
        lambda classes: _projection(classes)("bld,dnh->blnh", (None, 4, 8), bias_axes="nh"),
        X,
        {},
    ),
    "output": (lambda classes: _projection(classes)("blnh,nhd->bld", (None, 16)), HEADS, {}),
    "logits": (embedding_of, X, {"reverse": True}),
    "untied logits": (
        lambda classes: embedding_of(classes, tie_weights=False),
        X,
        {"reverse": True},
    ),
    "capped logits": (
        lambda classes: embedding_of(classes, logit_soft_cap=0.05),
        X,
        {"reverse": True},
    ),
}


def _projection(classes):
    return classes.Projection if classes is dense else classes.EinsumDense


def pair(name, config=None, lora=False):
    """Return our layer and Keras' with the same numbers, their inputs, and what calls need."""
    make, inputs, options = LAYERS[name]
    ours, theirs = make(dense), make(keras.layers)
    for layer in (ours, theirs):
        layer.build(inputs.shape)
    rng = np.random.default_rng(2)
    for left, right in zip(ours.weights, theirs.weights, strict=True):
        value = rng.normal(size=left.shape)
        left.assign(value)
        right.assign(value)
    ours.quantize("int8", config=config)
    theirs.quantize("int8", config=config)
    if lora:
        for layer in (ours, theirs):
            layer.enable_lora(2)
        for left, right in zip(ours.trainable_weights, theirs.trainable_weights, strict=True):
            value = rng.normal(size=left.shape)
            left.assign(value)
            right.assign(value)
    return ours, theirs, inputs, options


def check_equal(ours, theirs):
    # They differ where float32 rounds to another of 255 levels.
    ours, theirs = to_numpy(ours), to_numpy(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3 * np.abs(theirs).max())


def call_both(ours, theirs, inputs, options):
    """Check calls as in training and, on torch, as in generation, which goes another way there."""
    expected = theirs(inputs, **options)
    check_equal(ours(inputs, **options), expected)
    if keras.config.backend() == "torch":
        import torch

        with torch.no_grad():
            check_equal(ours(inputs, **options), expected)


CONFIGS = {
    "int8": None,
    "weights only": keras.quantizers.Int8QuantizationConfig(activation_quantizer=None),
    "one scale for all": keras.quantizers.Int8QuantizationConfig(
        activation_quantizer=keras.quantizers.AbsMaxQuantizer(axis=(0, 1, 2))
    ),
    "another epsilon": keras.quantizers.Int8QuantizationConfig(
        activation_quantizer=keras.quantizers.AbsMaxQuantizer(epsilon=1.0)
    ),
}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", LAYERS)
def test_int8_equals_keras(name, config):
    call_both(*pair(name, CONFIGS[config]))


@pytest.mark.parametrize("config", ["int8", "weights only"])
@pytest.mark.parametrize("name", ["dense", "heads", "output"])
def test_int8_with_lora_equals_keras(name, config):
    call_both(*pair(name, CONFIGS[config], lora=True))


def test_an_int8_activation_comes_last():
    inner = dense.Dense(12)
    outer = dense.Dense(12, activation="relu")
    for layer in (inner, outer):
        layer.build(ROWS.shape)
    outer.set_weights(inner.get_weights())
    for layer in (inner, outer):
        layer.quantize("int8")
    expected = np.maximum(to_numpy(inner(ROWS)), 0)
    assert (expected == 0).any()
    np.testing.assert_allclose(to_numpy(outer(ROWS)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["dense", "heads", "output"])
def test_int8_gradients_reach_the_inputs(name):
    """Where a layer below is trained: those of the float product, as with Keras."""
    ours, theirs, inputs, options = pair(name)
    check_equal(*(input_gradient(layer, inputs, options) for layer in (ours, theirs)))


def test_int8_logits_have_gradients():
    """Keras' reverse embedding rounds its inputs without a gradient."""
    ours, _, inputs, options = pair("logits")
    matrix = to_numpy(ours._embeddings) / to_numpy(ours.embeddings_scale).reshape(-1, 1)
    expected = loss_weights((*X.shape[:2], 50)) @ matrix
    check_equal(input_gradient(ours, inputs, options), expected)


def loss_weights(shape):
    return np.random.default_rng(3).normal(size=shape).astype("float32")


def input_gradient(layer, inputs, options):
    """Return the gradient of the outputs' sum with `loss_weights`."""
    weights = ops.convert_to_tensor(loss_weights(to_numpy(layer(inputs, **options)).shape))

    def total(x):
        return ops.sum(layer(x, **options) * weights)

    if keras.config.backend() == "jax":
        import jax

        return jax.grad(total)(inputs)
    x = ops.convert_to_tensor(inputs)
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            value = total(x)
        return tape.gradient(value, x)
    x.requires_grad_(True)
    total(x).backward()
    return x.grad
