"""Graphs on a GPU where one is at hand; else on a stand-in that keeps to the same memory."""

import contextlib
import gc
import threading

import keras
import numpy as np
import pytest
from keras import ops

from keras_textdiff.models import DiffusionLM
from keras_textdiff.utils import capture as capture_module
from keras_textdiff.utils import cuda_graph
from keras_textdiff.utils.capture import capture
from tests import tiny
from tests.tiny import to_numpy

if keras.config.backend() != "torch":
    pytest.skip("Graphs are torch's.", allow_module_level=True)

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class StandIn:
    """What a CUDA graph does, on CPU: the same operations on the tensors of the capture."""

    def __init__(self):
        self.calls = []

    def replay(self):
        for function, arguments, options, outputs in self.calls:
            results = function(*arguments, **options)
            for new, old in zip(keras.tree.flatten(results), outputs, strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class Recorder(TorchDispatchMode):
    """Records what runs inside into a `StandIn`."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        # A graph knows where tensors lie, and not what comes to lie elsewhere.
        args, kwargs, kept = tree_map_only(
            torch.Tensor, torch.Tensor.detach, (args, kwargs or {}, outputs)
        )
        self.graph.calls.append((function, args, kwargs, keras.tree.flatten(kept)))
        return outputs


class Nothing:
    """Streams and events of a device that does one thing after the other."""

    def __getattr__(self, name):
        return lambda *_: None


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """A list that gets each `CudaGraph` that is made."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(capture_module, "on_one_gpu", bool)
        monkeypatch.setattr(capture_module, "_places", lambda x: [y.data_ptr() for y in x])
        monkeypatch.setattr(torch.cuda, "CUDAGraph", StandIn)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: Recorder(graph))
        monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        for name in ("Stream", "Event", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, Nothing)
    graphs = []
    original = cuda_graph.CudaGraph

    def make(*arguments):
        graphs.append(original(*arguments))
        return graphs[-1]

    monkeypatch.setattr(cuda_graph, "CudaGraph", make)
    return graphs


def make_dense():
    model = keras.Sequential([keras.layers.Dense(3)])
    model.build((None, 2))
    return model


def make_denoiser():
    lm = tiny.diffusion_lm()
    captured = capture(lm, lambda inputs: lm.backbone.logits(lm.hidden_states(inputs)), after=0)
    return lm, captured


def make_inputs(seed, rows=2):
    ids = np.random.default_rng(seed).integers(0, 20, (rows, 8)).astype("int32")
    return {"token_ids": ops.convert_to_tensor(ids), "padding_mask": ops.ones((rows, 8), "bool")}


def plain(lm, inputs):
    return to_numpy(lm.backbone.logits(lm.hidden_states(inputs)))


def test_a_graph_computes_the_same_on_other_inputs(graphs):
    lm, captured = make_denoiser()
    with torch.no_grad():
        outputs = [captured(make_inputs(seed)) for seed in range(3)]  # kept side by side
        for seed, output in enumerate(outputs):
            expected = plain(lm, make_inputs(seed))
            np.testing.assert_allclose(to_numpy(output), expected, atol=1e-5)
        assert len(graphs) == 1
        captured(make_inputs(0, rows=3))
        assert len(graphs) == 2


def test_a_graph_sees_new_numbers_and_new_memory(graphs):
    lm, captured = make_denoiser()
    with torch.no_grad():
        before = to_numpy(captured(make_inputs(0)))
        weight = lm.backbone.trainable_variables[0]
        weight.assign(to_numpy(weight) * 2)
        after = to_numpy(captured(make_inputs(0)))
        assert np.abs(after - before).max() > 1e-3
        np.testing.assert_allclose(after, plain(lm, make_inputs(0)), atol=1e-5)
        assert len(graphs) == 1
        weight._value.data = weight._value.data.clone() / 2
        np.testing.assert_allclose(to_numpy(captured(make_inputs(0))), before, atol=1e-5)


def test_memory_that_a_graph_reads_is_not_given_to_others(graphs):
    model = make_dense()
    # A constant that nobody but the recording holds.
    captured = capture(model, lambda x: model(x) + torch.ones(3, device=x.device).cumsum(0), 0)
    x = ops.ones((1, 2))
    with torch.no_grad():
        expected = to_numpy(captured(x))
        gc.collect()
        others = [torch.full((128,), float("nan"), device=x.device) for _ in range(1000)]
        np.testing.assert_array_equal(to_numpy(captured(x)), expected)
        del others
    assert len(graphs) == 1 and graphs[0].function is not None


def test_where_there_is_no_graph_recordings_are_replayed(graphs, monkeypatch):
    @contextlib.contextmanager
    def fail(graph, **_):
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "graph", fail)
    model = make_dense()
    # Bringing numbers to a GPU is waited for.
    captured = capture(model, lambda x: model(x) + torch.tensor([1.0, 2.0, 3.0]).to(x.device), 0)
    with torch.no_grad():
        for rows in (1, 1, 2):
            x = ops.ones((rows, 2))
            expected = to_numpy(model(x)) + np.array([1, 2, 3])
            np.testing.assert_allclose(to_numpy(captured(x)), expected, rtol=1e-5)
    assert not graphs and captured.graphs.bytes_left == 0


def test_graphs_keep_so_much_memory_at_most(graphs, monkeypatch):
    monkeypatch.setattr(cuda_graph, "MOST_BYTES", 100)
    model = make_dense()
    captured = capture(model, model, after=0)
    with torch.no_grad():
        for rows, count in ((4, 1), (1, 2), (2, 2)):  # 80, 20 and 40 bytes of inputs and outputs
            x = ops.ones((rows, 2))
            np.testing.assert_allclose(to_numpy(captured(x)), to_numpy(model(x)), rtol=1e-6)
            assert len(graphs) == count


def test_a_recording_in_inference_mode_serves_other_calls(graphs):
    model = make_dense()
    captured = capture(model, model, after=0)
    with torch.inference_mode():
        captured(ops.ones((1, 2)))
    with torch.no_grad():
        x = 2 * ops.ones((1, 2))
        np.testing.assert_allclose(to_numpy(captured(x)), to_numpy(model(x)), rtol=1e-6)
    assert len(graphs) == 1


def test_threads_do_not_mix_their_inputs(graphs):
    model = make_dense()
    captured = capture(model, model, after=0)
    wrong = []

    def run(value):
        with torch.no_grad():
            x = value * ops.ones((64, 2))
            expected = to_numpy(model(x))
            for _ in range(200):
                if not np.allclose(to_numpy(captured(x)), expected, rtol=1e-5):
                    wrong.append(value)

    with torch.no_grad():
        captured(ops.ones((64, 2)))
    threads = [threading.Thread(target=run, args=(value,)) for value in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(graphs) == 1


def test_texts_are_those_of_plain_calls(graphs):
    lm, plain_lm = (DiffusionLM(tiny.backbone()) for _ in range(2))
    plain_lm.compile(run_eagerly=True)
    prompt = {
        "token_ids": np.ones((2, 16), "int32"),
        "padding_mask": np.arange(16)[None].repeat(2, 0) < 4,
    }
    for seed in range(5):  # recorded after some calls
        texts = [m.generate(prompt, stop_token_ids=None, seed=seed) for m in (lm, plain_lm)]
        np.testing.assert_array_equal(texts[0]["token_ids"], texts[1]["token_ids"])
    assert graphs
