"""The one place that knows how TensorFlow makes one pass over memory of several operations."""

import functools

import keras

from keras_textdiff.utils.on_cpu import on_cpu


def suits_one_pass(tensor):
    """Return whether operations on a tensor gain from `in_one_pass`.

    They do in a TensorFlow graph on CPU that XLA does not compile as a whole. Elsewhere XLA does so
    (on jax, too), nothing is compiled (eager execution, torch), or XLA may lack what it needs to
    compile for an accelerator.
    """
    if keras.config.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not (tf.executing_eagerly() or is_for_xla()) and on_cpu(tensor)


def is_for_xla():
    """Return whether the TensorFlow graph that is being made is for XLA."""
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def in_one_pass(function, *tensors):
    """Return `function(*tensors)`, compiled by XLA where the first tensor `suits_one_pass`.

    What each operation gives is not written to memory. The gradient is one pass, too, made from
    the tensors alone. XLA compiles once for each function and shapes, in a fraction of a second.

    Args:
        function: callable, tensors to a tensor; one object for all its calls. It works element by
            element: XLA on CPU hands reductions to a library, and crashes (in TensorFlow 2.21)
            where several threads first call what it made of them, as parallel iterations of
            a loop do.
        *tensors: what it takes; where a gradient is asked for, all of one shape, since that of
            a smaller one would be such a reduction.
    """
    if not suits_one_pass(tensors[0]):
        return function(*tensors)
    import tensorflow as tf

    forward, backward = _compiled(function)

    @tf.custom_gradient
    def run(*tensors):
        result = forward(*map(tf.stop_gradient, tensors))
        return result, lambda upstream: backward(upstream, *tensors)

    return run(*tensors)


@functools.cache
def _compiled(function):
    """Return the compiled function, and its gradient from the result's and the tensors."""
    import tensorflow as tf

    compiled = functools.partial(tf.function, jit_compile=True, autograph=False)

    @compiled
    def backward(upstream, *tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = function(*tensors)
        return tape.gradient(result, tensors, upstream)

    return compiled(lambda *tensors: function(*tensors)), backward
