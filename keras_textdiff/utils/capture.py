"""On torch, calls without Keras' Python: operations are recorded once and replayed.

jax and tensorflow compile; torch runs every layer's Python at every call, which takes half of a
short call's time on CPU, and nearly all of it on a GPU. There, operations are launched together.
"""

import contextlib
import contextvars

import keras
from keras import tree

from keras_textdiff.utils.cuda_graph import CudaGraphs, on_one_gpu
from keras_textdiff.utils.recording import PackedWeights, improve
from keras_textdiff.utils.steady_weights import remembered

_AT_ONCE = contextvars.ContextVar("recording_at_once", default=False)
CALLS_BEFORE_CAPTURE = 16  # recording takes as long as some dozens of the calls that it shortens


def capture(model, function, after=CALLS_BEFORE_CAPTURE):
    """Return a function that does the same, on torch without the Python in it after some calls.

    A recording is made of each combination of shapes, and anew where a weight of the model is
    another tensor than before; new numbers in the same tensors are seen. On CPU it keeps up to a
    gigabyte of weights a second time, in the layout of oneDNN's products; on a GPU, up to a
    gigabyte of inputs and outputs.

    Args:
        model: `keras.Model` whose weights `function` reads; with `run_eagerly`, nothing is
            recorded.
        function: callable, nests of tensors to a nest of tensors. All tensors but weights are
            arguments, and no branch of Python depends on their numbers; where one does, recording
            fails, and the function goes on as it is.
        after: int, calls with the same shapes before they are recorded.

    Returns:
        Callable; `function` itself on jax and tensorflow.
    """
    if not records(model):
        return function
    return _Captured(model, function, after)


@contextlib.contextmanager
def recording_at_once():
    """Record what is called inside at its first call with these shapes."""
    token = _AT_ONCE.set(True)
    try:
        yield
    finally:
        _AT_ONCE.reset(token)


def records(model):
    """Return whether functions of a model have to run, with gradients off, to be ready."""
    return keras.config.backend() == "torch" and not model.run_eagerly


class _Captured:
    def __init__(self, model, function, after):
        self.model = model
        self.function = function
        self.after = after
        self.forget([])

    def forget(self, weights):
        """Start anew with these weights."""
        self.weights = weights
        self.places = _places(weights)
        self.watch = _Watch(weights)
        self.graphs = CudaGraphs()
        self.packed = PackedWeights()
        self.num_calls = {}  # by shapes
        self.recordings = {}  # by shapes; the function itself where recording failed

    def __call__(self, *arguments):
        import torch

        leaves = tree.flatten(arguments)
        if torch.is_grad_enabled() or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
            return self.function(*arguments)
        if not remembered(self, self._look_at_weights):
            return self.function(*arguments)
        key = tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves)
        if key not in self.recordings:
            self.num_calls[key] = self.num_calls.get(key, 0) + 1
            if self.num_calls[key] <= self.after and not _AT_ONCE.get():
                return self.function(*arguments)
            self.recordings[key] = self._record(arguments)
        return self.recordings[key](*arguments)

    def _look_at_weights(self):
        """Bring recordings up to date; return whether there can be any."""
        weights = [variable._value for variable in self.model.variables]
        if any(weight.is_inference() for weight in weights):  # their changes are not counted
            return False
        is_new = len(weights) != len(self.weights) or any(map(_is_not, weights, self.weights))
        if is_new or _places(weights) != self.places:
            self.forget(weights)
        elif self.watch.has_changed():
            self.packed.refresh()
        return True

    def _record(self, arguments):
        """Return a recording; on a GPU, its graph."""
        import torch

        if not on_one_gpu([*tree.flatten(arguments), *self.weights]):
            return _record(self.function, arguments, self.packed)
        with torch.inference_mode(False), torch.no_grad():  # inputs of later calls are no others
            arguments = tree.map_structure(torch.clone, arguments)
            recording = _record(self.function, arguments, self.packed)
            if recording is self.function:
                return recording
            return self.graphs.make(recording, arguments)


def _places(weights):
    """Return where on GPUs weights lie: a graph reads them there."""
    return [weight.data_ptr() for weight in weights if weight.device.type == "cuda"]


def _is_not(left, right):
    return left is not right


class _Watch:
    """Sees changes of the weights' numbers.

    PyTorch counts them, but for those of its fused optimizers. They change nearly all numbers, so
    one of each weight shows them.
    """

    def __init__(self, weights):
        self.weights = weights
        # Where nothing is kept a second time, nothing can be out of date.
        on_cpu = [weight for weight in weights if weight.device.type == "cpu" and weight.numel()]
        self.samples = [weight.detach()[(0,) * weight.ndim] for weight in on_cpu]  # views
        self.seen = self._look()

    def has_changed(self):
        """Return whether numbers have changed since the last call."""
        before, self.seen = self.seen, self._look()
        return before != self.seen

    def _look(self):
        import torch

        count = sum(weight._version for weight in self.weights)
        return count, torch.stack(self.samples).tolist() if self.samples else []


def _record(function, arguments, packed):
    """Return the recorded function, or `function` where it cannot be recorded."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    # It notes shapes by means of a mode, and makes one for each tensor unless there is one.
    noted = TracingContext(FakeTensorMode())
    try:
        # It counts a function's parameters, and takes a method's `self` for one.
        with tracing(noted):
            recording = make_fx(lambda *arguments: function(*arguments))(*arguments)
    except Exception:  # whatever a layer of the user's does: it runs as it is, or says so then
        return function
    improve(recording, packed)
    return recording
