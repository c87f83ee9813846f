"""The one place that knows how TensorFlow makes one pass over memory of several operations."""

import functools

import keras
from keras import ops

from keras_textdiff.utils.on_cpu import on_cpu


def in_one_pass(function, *tensors):
    """Return `function(*tensors)`, on TensorFlow on CPU compiled by XLA where all else is not.

    There, what each operation gives would be written to memory. Gradients are one pass, too, made
    from the tensors alone. On an accelerator, in a function that XLA compiles as a whole, and on
    other backends, the function is called as it is.

    Args:
        function: callable, tensors to a tensor, or several; one object for all its calls, because
            it is compiled once per object and shapes.
        *tensors: what it takes.
    """
    if keras.config.backend() != "tensorflow":
        return function(*tensors)
    import tensorflow as tf

    tensors = [ops.convert_to_tensor(tensor) for tensor in tensors]
    if tf.executing_eagerly() or is_for_xla() or not on_cpu(tensors[0]):
        return function(*tensors)
    return _compiled(function)(*tensors)


def is_for_xla():
    """Return whether the graph that is being made is for XLA."""
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


@functools.cache
def _compiled(function):
    import tensorflow as tf

    compiled = functools.partial(tf.function, jit_compile=True, autograph=False)
    forward = compiled(lambda *tensors: function(*tensors))

    @compiled
    def backward(upstream, *tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = function(*tensors)
        return tape.gradient(result, tensors, upstream)

    @tf.custom_gradient
    def run(*tensors):
        return forward(*tensors), lambda upstream: backward(upstream, *tensors)

    return run
