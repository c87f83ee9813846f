import types

import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.training import GuardedOptimizer
from keras_textdiff.utils.fused_adam import fuse_adam
from tests import tiny
from tests.tiny import to_numpy

BACKEND = keras.config.backend()
pytestmark = pytest.mark.skipif(BACKEND == "jax", reason="jax fuses the passes by itself.")
on_torch = pytest.mark.skipif(BACKEND != "torch", reason="TensorFlow has no such tensors.")
LossScaleOptimizer = keras.optimizers.LossScaleOptimizer
SCHEDULE = {"initial_learning_rate": 1e-2, "decay_steps": 4}


def train(optimizer, dtype="float32", num_steps=6):
    """Return two variables and the optimizer's own, after steps with fixed gradients."""
    rng = np.random.default_rng(0)
    variables = [
        keras.Variable(rng.normal(size=shape), dtype=dtype, name=f"v{index}")
        for index, shape in enumerate([(5, 3), (4,)])
    ]
    optimizer.build(variables)
    for _ in range(num_steps):
        gradients = [ops.convert_to_tensor(rng.normal(size=v.shape), dtype) for v in variables]
        optimizer.apply(gradients, variables)
    return [to_numpy(v.value).astype("float32") for v in [*variables, *optimizer.variables]]


def counting(monkeypatch):
    """Return a list that grows with each fused call."""
    if BACKEND == "torch":
        import torch

        module, name = torch, "_fused_adam_"
    else:
        import tensorflow as tf

        module, name = tf.raw_ops, "ResourceApplyAdam"
    calls, fused = [], getattr(module, name)

    def counted(*arguments, **kwargs):
        calls.append(1)
        return fused(*arguments, **kwargs)

    monkeypatch.setattr(module, name, counted)
    return calls


@pytest.mark.parametrize(
    ("make", "num_updates"),
    [
        (lambda: keras.optimizers.Adam(1e-2), 6),
        (lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, beta_1=0.8, epsilon=1e-3), 6),
        (lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(**SCHEDULE)), 6),
        (lambda: keras.optimizers.AdamW(1e-2, global_clipnorm=0.5, use_ema=True), 6),
        (lambda: keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2), 3),
        (lambda: GuardedOptimizer(keras.optimizers.AdamW(1e-2)), 6),
        (lambda: LossScaleOptimizer(GuardedOptimizer(keras.optimizers.Adam(1e-2)), 1.0), 6),
    ],
    ids=["adam", "decay", "schedule", "clip and average", "accumulate", "guarded", "scaled"],
)
def test_a_step_is_that_of_keras(make, num_updates, monkeypatch):
    expected = train(make())
    optimizer = make()
    fuse_adam(optimizer)
    calls = counting(monkeypatch)
    for result, reference in zip(train(optimizer), expected, strict=True):
        np.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-7)
    num_variables = 2 if BACKEND == "tensorflow" else 1  # of a call
    assert len(calls) == num_updates * num_variables


def test_what_it_cannot_do_is_done_by_keras(monkeypatch):
    class Other(keras.optimizers.Adam):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient, variable, learning_rate)

    calls = counting(monkeypatch)
    for make, dtype in [
        (lambda: keras.optimizers.Adam(1e-2, amsgrad=True), "float32"),
        (lambda: keras.optimizers.Adam(1e-2, beta_2=0.95), "bfloat16"),
        (lambda: keras.optimizers.Lion(1e-2), "float32"),
        (lambda: Other(1e-2), "float32"),
    ]:
        expected = train(make(), dtype)
        optimizer = make()
        fuse_adam(optimizer)
        for result, reference in zip(train(optimizer, dtype), expected, strict=True):
            np.testing.assert_array_equal(result, reference)
    assert not calls


def check_left_to_keras(shape, gradients, monkeypatch):
    """Check that steps with these gradients are not fused, and are those of Keras."""
    calls = counting(monkeypatch)
    results = []
    for fuse in (False, True):
        variable = keras.Variable(np.zeros(shape, "float32"))
        optimizer = keras.optimizers.Adam(1e-2)
        optimizer.build([variable])
        if fuse:
            fuse_adam(optimizer)
        for gradient in gradients:
            optimizer.apply([gradient], [variable])
        results.append([to_numpy(v.value) for v in [variable, *optimizer.variables]])
    for result, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(result, expected)
    assert not calls


@on_torch
def test_gradients_that_lie_otherwise_in_memory_are_left_to_keras(monkeypatch):
    matrix = ops.convert_to_tensor(np.arange(6, dtype="float32").reshape(3, 2))
    check_left_to_keras((2, 3), [matrix.t(), matrix[:1, :1].expand(2, 3)], monkeypatch)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="torch adds sparse gradients up.")
def test_sparse_gradients_are_left_to_keras(monkeypatch):
    import tensorflow as tf

    gradient = tf.IndexedSlices(tf.ones((2, 3)), tf.constant([1, 3]), tf.constant([4, 3]))
    check_left_to_keras((4, 3), [gradient], monkeypatch)


def test_training_takes_fused_steps(monkeypatch):
    lm = tiny.diffusion_lm()
    lm.compile(keras.optimizers.AdamW(1e-2), run_eagerly=BACKEND == "tensorflow")
    num_calls = len(lm.trainable_variables) if BACKEND == "tensorflow" else 1
    calls = counting(monkeypatch)
    rows = lm.preprocessor(tiny.TEXTS)
    lm.fit(rows, batch_size=len(tiny.TEXTS), steps_per_epoch=1, verbose=0)
    assert len(calls) == num_calls
    lm.train_on_batch(rows)
    assert len(calls) == 2 * num_calls


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about tf.distribute")
@pytest.mark.parametrize("count", [1, 2])
def test_replicas_are_left_to_keras(count):
    # A model knows its replicas, also outside of its strategy's scope, where `fit` is called.
    strategy = types.SimpleNamespace(num_replicas_in_sync=count)
    optimizer = keras.optimizers.Adam(1e-2)
    fuse_adam(optimizer, types.SimpleNamespace(distribute_strategy=strategy))
    assert ("update_step" in vars(optimizer)) == (count == 1)


@on_torch
def test_changes_are_counted():
    optimizer = keras.optimizers.Adam(1e-2)
    fuse_adam(optimizer)
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer.build([variable])
    before = variable.value._version
    optimizer.apply([ops.ones(3)], [variable])
    assert variable.value._version > before
