"""Two processes, or two devices of tensorflow, train one model: the results are those of one."""

import os
import sys

import keras
import numpy as np
import pytest

from keras_textdiff import distribution
from tests import tiny
from tests.processes import ROOT, free_port, run_together

BACKEND = keras.config.backend()
LAYOUTS = ("data", "tensor", "both") if BACKEND == "jax" else ("data",)
NUM_PROCESSES = 1 if BACKEND == "tensorflow" else 2


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return what one process alone wrote, and what those wrote that worked together."""
    folder = tmp_path_factory.mktemp("together")
    port = free_port()
    arguments = [(folder / "alone", 1, 0, 0)]
    arguments += [(folder / "two", NUM_PROCESSES, index, port) for index in range(NUM_PROCESSES)]
    run_together(
        [[sys.executable, "-m", "tests.distribution.together", *each] for each in arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "KERAS_BACKEND": BACKEND,
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",  # compiles faster
        },
    )
    return folder


def load(path):
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("kind", "layout"), [("CausalLM", "data"), *(("DiffusionLM", layout) for layout in LAYOUTS)]
)
def test_results_are_those_of_one_process(results, kind, layout):
    expected = load(results / "alone" / "alone" / kind / "0.npz")
    paths = sorted((results / "two" / layout / kind).glob("*.npz"))
    assert len(paths) == NUM_PROCESSES
    found = [load(path) for path in paths]
    # Replicas draw noise of their own where jax draws one for all.
    same_noise = BACKEND == "jax" or kind == "CausalLM"
    assert any(name.startswith("stream") for name in found[0]) == (
        kind == "DiffusionLM" and layout == LAYOUTS[-1]
    )
    for name, value in expected.items():
        for one in found:
            if name.startswith("stream") and layout != LAYOUTS[-1]:
                continue
            if name == "stream resumed":
                assert one[name] > 0  # and more was checked there
            elif name.startswith("stream"):  # each process has read other rows than one does
                np.testing.assert_array_equal(one[name], found[0][name], err_msg=name)
                assert np.isfinite(one[name]).all()
            elif same_noise or name in ("logits", "tokens", "scores"):
                np.testing.assert_allclose(one[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
            else:
                np.testing.assert_array_equal(one[name], found[0][name], err_msg=name)
    assert not same_noise or {"history loss", "evaluate again"} <= set(expected)


@pytest.mark.skipif(BACKEND == "jax", reason="jax draws the noise of all devices at once")
def test_replicas_draw_noise_of_their_own(results):
    paths = sorted((results / "two" / "data" / "DiffusionLM").glob("*.npz"))
    seeds = np.concatenate([load(path)["seeds"] for path in paths])
    assert seeds.shape == (2, 2)  # a seed for each replica, from equal states
    assert not np.array_equal(*seeds)
    # The noise differs from that of one process, not what is learned.
    alone = load(results / "alone" / "alone" / "DiffusionLM" / "0.npz")
    together = load(paths[0])
    assert np.abs(alone["history loss"] - together["history loss"]).max() > 1e-3
    assert together["history loss"][-1] < together["history loss"][0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_preset_is_whole(results, layout):
    from keras_textdiff.models import DiffusionLM

    place = results / "two" / layout / "DiffusionLM"
    model = DiffusionLM.from_preset(place / "preset")
    found = load(place / "0.npz")
    for index, variable in enumerate(model.trainable_variables):
        value = keras.ops.convert_to_numpy(variable)
        np.testing.assert_array_equal(value, found[f"variable {index}"])


# === Refusals ===


@pytest.mark.skipif(BACKEND == "tensorflow", reason="about the other backends")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1:1", 2, None), "Pass all of"),
        (("127.0.0.1", 2, 0), "host:port"),
        (("127.0.0.1:1", 0, 0), "num_processes"),
        (("127.0.0.1:1", 2, 2), "process_id"),
        (("127.0.0.1:1", 2, -1), "process_id"),
    ],
)
def test_bad_addresses(arguments, message):
    with pytest.raises(ValueError, match=message):
        distribution.initialize(*arguments)


@pytest.mark.skipif(BACKEND != "torch", reason="about torch")
def test_torch_without_an_environment(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match="Start the processes with `torchrun`"):
        distribution.initialize()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about tensorflow")
def test_tensorflow_has_one_process():
    with pytest.raises(ValueError, match="MirroredStrategy"):
        distribution.initialize("127.0.0.1:1", 2, 0)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="about tensorflow")
def test_strategies_that_are_not_supported(results):
    import tensorflow as tf

    class Other(tf.distribute.OneDeviceStrategy):
        num_replicas_in_sync = 2

    lm = tiny.diffusion_lm()
    lm.compile()
    lm._distribute_strategy = Other("CPU:0")
    with pytest.raises(ValueError, match="Got Other"):
        lm.fit(tiny.inputs())
    refusals = (results / "two" / "refusal.txt").read_text()
    assert "jit_compile=False" in refusals and "GuardedOptimizer cannot skip" in refusals
