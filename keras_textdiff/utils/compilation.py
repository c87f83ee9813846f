"""The one place that knows how each backend compiles a function and runs a loop."""

import keras
from keras import ops, tree

from keras_textdiff.utils.processes import on_all_devices, split_rows
from keras_textdiff.utils.steady_weights import remembered, weights_stay


def while_loop(condition, body, loop_vars):
    """Run `body` while `condition` holds: compiled on jax and tensorflow, plain on torch.

    Variables read in `body` must not be written there, and no random state may live in it:
    noise is an input.
    """
    return ops.while_loop(condition, body, loop_vars)


def compile_function(model, function):
    """Compile `function` of a dict of arrays, with `model`'s current weights.

    Under a `keras.distribution`, the rows are split as `processes.split_rows` says.

    Args:
        model: see `compile_tensors`.
        function: see `compile_tensors`.

    Returns:
        Callable, dict of arrays to nest of NumPy arrays. Weights are read at each call, or where
        `weights_stay`, once.
    """
    run = compile_tensors(model, function)
    return lambda inputs: tree.map_structure(ops.convert_to_numpy, run(split_rows(inputs)))


def compile_tensors(model, function):
    """Compile `function` of a dict of tensors, with `model`'s current weights.

    Args:
        model: a compiled `keras.Model`; `jit_compile` and `run_eagerly` are respected.
        function: callable, dict of tensors, "token_ids" `(B, L)` among them, to nest of tensors;
            may call `model`.

    Returns:
        Callable, dict of tensors to nest of tensors. Weights are read at each call, or where
        `weights_stay`, once.
    """
    backend = keras.config.backend()
    eager = model.run_eagerly or (backend == "jax" and not model.jit_compile)
    if backend == "jax" and not eager:
        return _compile_jax(model, function)
    if backend == "tensorflow" and not eager:
        import tensorflow as tf

        return tf.function(function, jit_compile=bool(model.jit_compile))
    if backend == "torch":
        import torch

        def run(inputs):
            with torch.no_grad(), weights_stay():
                return function(inputs)

        return run
    return function


def _compile_jax(model, function):
    import jax

    @jax.jit
    def stateless(state, inputs):
        mapping = list(zip(model.variables, state, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return on_all_devices(function(inputs))

    def run(inputs):
        state = remembered(model, lambda: [variable.value for variable in model.variables])
        return stateless(state, inputs)

    return run


CALLS_BEFORE_SPECIALIZING = 8


def specializes(num_calls):
    """Return whether a loop that has run so often is worth a version for other shapes.

    On torch each is, because nothing is compiled.
    """
    return keras.config.backend() == "torch" or num_calls >= CALLS_BEFORE_SPECIALIZING


class CompiledFunctions:
    """Compiled functions by key; kept out of Keras' attribute tracking by being no container."""

    def __init__(self):
        self._functions = {}
        self._num_calls = {}

    def get(self, key, model, function):
        """Return the compiled `function`, compiling it at the first call with `key`."""
        if key not in self._functions:
            compiled = compile_function(model, function)

            def counted(inputs):
                self._num_calls[key] = self.num_calls(key) + 1
                return compiled(inputs)

            self._functions[key] = counted
        return self._functions[key]

    def num_calls(self, key):
        """Return how often the function of a key has been called."""
        return self._num_calls.get(key, 0)

    def clear(self):
        """Forget all functions, where weights or options have changed shape."""
        self._functions.clear()
        self._num_calls.clear()
